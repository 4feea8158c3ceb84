"""What an image takes in a real vision tower on CPU, against what was read on `meta`."""

import json

import pytest
import torch

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.meta.peak import LiveBytes
from quantspace.estimation.meta.reader import inventory_from_config
from quantspace.hub.catalogue import find_bundled


def pixels(name: str, side: int) -> dict[str, torch.Tensor]:
    """Pixels as the processor of each class gives them."""
    if name == "qwen2.5-vl-vision":  # patches of 14 × 14, two frames, three colours
        patches = side // 14
        values = torch.rand(patches * patches, 3 * 2 * 14 * 14, dtype=torch.bfloat16)
        return {"pixel_values": values, "image_grid_thw": torch.tensor([[1, patches, patches]])}
    return {"pixel_values": torch.rand(1, 3, side, side, dtype=torch.bfloat16)}


@pytest.mark.parametrize("name", ["gemma3-vision", "llava-vision", "qwen2.5-vl-vision"])
def test_an_image_takes_what_was_read(name, tiny_checkpoint):
    folder = tiny_checkpoint(name)
    raw = json.loads((folder / "config.json").read_text())
    image = inventory_from_config(raw, name).image
    model = model_class(parse_config(raw)).from_pretrained(folder, dtype=torch.bfloat16)
    inputs = pixels(name, image.width)

    with torch.no_grad(), LiveBytes(model) as live:
        features = model.get_image_features(**inputs).pooler_output

    tokens = sum(part.shape[-2] for part in ([features] if isinstance(features, torch.Tensor) else features))
    measured = max(live.timeline)
    print(f"{name}: {image.tokens} tokens, measured {measured:,} B, predicted {image.peak:,}")
    assert tokens == image.tokens
    assert -0.03 <= image.peak / measured - 1 <= 0.02


@pytest.mark.parametrize(
    ("model_id", "side", "tokens"), [("google/gemma-3-4b-it", 896, 256), ("llava-hf/llava-1.5-7b-hf", 336, 576)]
)
def test_published_models_say_how_many_tokens_an_image_becomes(model_id, side, tokens):
    image = inventory_from_config(find_bundled(model_id).config, model_id).image

    assert (image.width, image.height, image.tokens) == (side, side, tokens)


def test_a_text_model_takes_no_images():
    assert inventory_from_config(find_bundled("openai-community/gpt2").config, "gpt2").image is None
