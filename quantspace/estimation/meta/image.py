"""What one image costs: its tower watched on `meta`, and the tokens of the prompt that it becomes.

The picture is as large as the config says the tower was made for; towers that take any size are asked for
`ASKED` pixels a side, rounded to whole patches. Pixels themselves are not counted: they come from the processor.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..inventory import ImageCost
from .peak import FusedAttention, LiveBytes
from .repeat import LikeLayers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ASKED = 1024  # pixels a side, where a config names no size
CHANNELS = 3


def image_cost(model: PreTrainedModel) -> ImageCost | None:
    """The cost of one image to a model on `meta`; `None` where it takes none.

    Raises:
        Exception: whatever the class raises when its tower can't run without data.
    """
    vision = getattr(model.config, "vision_config", None)
    features = getattr(model, "get_image_features", None)
    if vision is None or features is None:
        return None
    known = _whole(getattr(vision, "image_size", None)) or _positions(vision)
    side, inputs = _inputs(features, vision, known or ASKED)
    like = LikeLayers(model)
    peak, output = _watch(model, features, inputs, like)
    if not like.sound:
        peak, output = _watch(model, features, inputs, nullcontext())
    origin = "the size its tower was made for" if known else "its tower takes any size"
    return ImageCost(
        tokens=sum(tensor.numel() // tensor.shape[-1] for tensor in _tensors(output)),
        peak=peak,
        width=side,
        height=side,
        note=f"One image of {side} × {side} pixels ({origin}), read from a pass of the class; pixels not counted.",
    )


def _inputs(features: Any, vision: PreTrainedConfig, size: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Pixels of one image, in the form that the class asks for; their size."""
    asked = inspect.signature(features).parameters
    if "image_grid_thw" not in asked:
        pixels = torch.empty(1, CHANNELS, size, size, dtype=torch.bfloat16, device="meta")
        sizes = {"image_sizes": torch.tensor([[size, size]])} if "image_sizes" in asked else {}
        return size, {"pixel_values": pixels, **sizes}
    patch, frames = vision.patch_size, vision.temporal_patch_size
    whole = patch * vision.spatial_merge_size
    side = round(size / whole) * vision.spatial_merge_size  # patches, as the processors round
    values = torch.empty(side * side, CHANNELS * frames * patch * patch, dtype=torch.bfloat16, device="meta")
    return side * patch, {"pixel_values": values, "image_grid_thw": torch.tensor([[1, side, side]])}


def _watch(model: PreTrainedModel, features: Any, inputs: dict[str, torch.Tensor], like: Any) -> tuple[int, Any]:
    alive = _TwoPlaces(model)
    # Sizes are real numbers on CPU, so that what is made of them is real too.
    place = torch.device("meta") if len(inputs) == 1 else nullcontext()
    with torch.no_grad(), place, FusedAttention(alive), like, alive:
        output = features(**inputs)
    pooled = getattr(output, "pooler_output", output)
    return max(alive.timeline), output.last_hidden_state if pooled is None else pooled


class _TwoPlaces(LiveBytes):
    """Lets real numbers meet tensors on `meta`: the result is on `meta`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if len({leaf.device for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor) and leaf.dim()}) > 1:
            given = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), given)
        return super().__torch_dispatch__(func, types, *given)


def _tensors(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(output)


def _positions(vision: PreTrainedConfig) -> int | None:
    """Pixels a side, of a tower with a square of learned positions."""
    positions = _whole(getattr(vision, "num_position_embeddings", None))
    return round(positions**0.5) * vision.patch_size if positions else None


def _whole(value: Any) -> int | None:
    one = value[0] if isinstance(value, (list, tuple)) and value else value
    return one if isinstance(one, int) and one > 0 else None
