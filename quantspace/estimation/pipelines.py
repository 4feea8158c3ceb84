"""Repositories of several models: pipelines of diffusers, and sentence-transformers with layers of their own.

A pipeline is answered for by its weights alone: every component that `model_index.json` names, by the headers of
the safetensors files in its folder. Copies are left out: variants such as fp16, single-file checkpoints beside the
folders, folders that no component is named for. What lies in pickled files only is counted at the files' size.

`model_index.json`: name of a component → [library, class], with keys that begin with `_` about the pipeline itself
(`DiffusionPipeline.from_pretrained` of diffusers). `modules.json`: a list of {`path`, `type`} in the order in which
they run (`SentenceTransformer._load_sbert_model` of sentence-transformers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..errors import ModelUnsupported, shorten
from ..hub.client import RepoFacts
from ..hub.dense_json import parse_json
from ..hub.fetch import fetch_file
from ..hub.json_files import fetch_config, fetch_json
from ..hub.safetensors_headers import HeaderTensor, read_headers
from .architecture import with_base_class
from .headers.classify import classified, distinct
from .headers.inventory import refuse_too_many
from .headers.packing import unpacked
from .headers.plain_config import read_numbers
from .inventory import Inventory, PeakTerm, Role, TensorSpec

PIPELINE_FILE = "model_index.json"
MODULES_FILE = "modules.json"
MAX_COMPONENTS = 100  # of a pipeline, or modules; published ones have a dozen
MAX_LIST_BYTES = 2**20  # of either file; published ones have some hundred
MAX_FOLDER = 100  # characters of a component's or a module's folder

_LEFT_OUT = (
    "Weights only: what it takes to compute is not counted; that of denoising and of decoding grows with the size "
    "of the image."
)
_PICKLED = re.compile(r"(diffusion_pytorch_model|pytorch_model)(-\d+-of-\d+)?\.bin")
_KEPT = frozenset({"vae", "vqvae", "movq", "vocoder", "image_encoder", "safety_checker"})  # not quantized


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a pipeline: the folder of its files, and the class that reads them, such as `UNet2DConditionModel`."""

    name: str
    library: str
    architecture: str

    @property
    def shown(self) -> str:
        """Both in short, for people."""
        return f"{shorten(self.name, 40)} ({shorten(self.architecture, 60)})"


def is_pipeline(facts: RepoFacts) -> bool:
    """Whether a repository is a pipeline of diffusers."""
    return PIPELINE_FILE in facts.files


def read_pipeline(facts: RepoFacts, token: str | None = None) -> Inventory:
    """What all components of a pipeline hold together, read from the headers of their files.

    Raises:
        ModelUnsupported: `model_index.json` is broken, or no component has weights that can be told.
        ModelUnavailable: the files could not be fetched.
    """
    index = fetch_json(facts, PIPELINE_FILE, token, MAX_LIST_BYTES)
    components = list(_components(index))
    stored = {one.name: _paths(facts, one.name, ".safetensors") for one in components}
    every = [path for paths in stored.values() for path in paths]
    headers = read_headers(facts, token, paths=every) if every else ()
    tensors: list[TensorSpec] = []
    told: list[str] = []
    sized = False
    for one in components:
        own = [t for header in headers if header.path.startswith(f"{one.name}/") for t in header.tensors]
        if own:
            refuse_too_many(facts, len(tensors) + distinct(tensor.name for tensor in own))
            tensors.extend(_specs(one.name, own))
            told.append(_told(one, own))
        elif size := sum(facts.files[path] for path in _paths(facts, one.name, ".bin")):
            tensors.append(TensorSpec(f"{one.name} (pickled)", (-(-size // 4),), "other", fixed_dtype="float32"))
            told.append(f"{one.shown}: a pickled file, counted at its size")
            sized = True
    if not tensors:
        raise ModelUnsupported(
            f"{facts.ref.id} is a pipeline of diffusers none of whose components has weights in its own folder.",
            "Pick the repository that its model card names for the weights.",
        )
    return Inventory(
        model_id=facts.ref.id,
        revision=facts.ref.revision,
        sha=facts.sha,
        architecture=shorten(str(index.get("_class_name") or "DiffusionPipeline")),
        tensors=tuple(tensors),
        cache=(),
        peak=(PeakTerm(0, 0),),
        peak_measured=False,
        source=f"{'sizes and ' if sized else ''}headers of the safetensors files of its components on the Hub",
        source_kind="headers",
        exact=False,
        generates=False,
        weights_only=_LEFT_OUT,
        notes=(
            f"A pipeline of {len(told)} models. {'; '.join(told)}.",
            "Which layers get quantized is told by the shapes of weights; a VAE and safety checks are left in 16 bits.",
        ),
    )


def uses_modules(facts: RepoFacts) -> bool:
    """Whether a repository is one of sentence-transformers."""
    return MODULES_FILE in facts.files


def fetch_embedding_config(facts: RepoFacts, token: str | None = None) -> dict[str, Any]:
    """The `config.json` of the model that a repository of sentence-transformers begins with, asking for its base class.

    Raises:
        ModelUnsupported: its modules begin with something else, or a file is broken.
        ModelUnavailable: the files could not be fetched.
    """
    first = next(_modules(facts, token), ("", ""))
    if "/" not in f"{first[0]}/config.json".lstrip("/"):
        return with_base_class(fetch_config(facts, token))
    path = f"{first[0]}/config.json"
    if path not in facts.files:
        raise ModelUnsupported(
            f"{facts.ref.id} begins with a module {shorten(first[1].rpartition('.')[2])}, which has no config.json.",
            "Its weights can be told from the headers of its files only.",
        )
    return with_base_class(fetch_json(facts, path, token))


def with_modules(inventory: Inventory, facts: RepoFacts, token: str | None = None) -> Inventory:
    """An embedding model with the dense layers that a repository of sentence-transformers puts behind it.

    They are built in float32 whatever the model's dtype (`Dense` of sentence-transformers). Pooling and
    normalization hold nothing.

    Raises:
        ModelUnsupported, ModelUnavailable: their files are broken, or could not be fetched.
    """
    later = [path for path, _ in list(_modules(facts, token))[1:] if path]
    files = {path: _paths(facts, path, ".safetensors") for path in later}
    every = [path for paths in files.values() for path in paths]
    headers = read_headers(facts, token, paths=every) if every else ()
    refuse_too_many(facts, len(inventory.tensors) + sum(len(header.tensors) for header in headers))
    added = [
        TensorSpec(f"{header.path.rpartition('/')[0]}.{tensor.name}", tensor.shape, "other", fixed_dtype="float32")
        for header in headers
        for tensor in header.tensors
    ]
    for path in (path for path in later if not files[path]):
        size = sum(facts.files[file] for file in _paths(facts, path, ".bin"))
        if size:
            added.append(TensorSpec(f"{path} (pickled)", (-(-size // 4),), "other", fixed_dtype="float32"))
    if not added:
        return inventory
    elements = sum(tensor.elements for tensor in added)
    note = f"Layers of sentence-transformers behind the model: {elements:,} parameters, held in float32."
    return replace(inventory, tensors=(*inventory.tensors, *added), notes=(*inventory.notes, note))


def why_no_class(facts: RepoFacts) -> str:
    """Why a repository has no class of transformers, in a sentence, where it is known; else empty."""
    kind = next((kind for kind, known in _OTHER_KINDS.items() if known(facts)), None)
    return f"{facts.ref.id} is {kind}, which transformers does not build." if kind else ""


def _has(*endings: str) -> Callable[[RepoFacts], bool]:
    return lambda facts: any(path.endswith(endings) for path in facts.files)


def _made_with(*libraries: str) -> Callable[[RepoFacts], bool]:
    return lambda facts: facts.library in libraries


# Kind of repository → how one is told. In the order in which they are asked.
_OTHER_KINDS: dict[str, Callable[[RepoFacts], bool]] = {
    "a model of timm": _made_with("timm"),
    "a model of Keras": lambda facts: _made_with("keras", "keras-hub", "tf-keras")(facts) or _has(".keras")(facts),
    "a pipeline of spaCy": _made_with("spacy"),
    "a model of Flair": _made_with("flair"),
    "a model of NeMo": lambda facts: facts.library == "nemo" or _has(".nemo")(facts),
    "a model of fastText": _made_with("fasttext"),
    "a model of scikit-learn": _made_with("sklearn"),
    "a model of MLX": lambda facts: facts.library == "mlx" and "config.json" not in facts.files,
    "an export to ONNX": lambda facts: _has(".onnx")(facts) and not _has(".safetensors", ".bin")(facts),
    "a checkpoint of TensorFlow": lambda facts: _has(".h5", ".pb")(facts) and not _has(".safetensors", ".bin")(facts),
}


def _components(index: dict[str, Any]) -> Iterator[Component]:
    """The components of a pipeline that are there: a folder's name, and what reads it."""
    if len(index) > MAX_COMPONENTS:
        raise ModelUnsupported(
            f"The {PIPELINE_FILE} names {len(index):,} components; {MAX_COMPONENTS} at most are read.",
            "Check the repository: published pipelines have a dozen.",
        )
    for name, value in index.items():
        if name.startswith("_") or "/" in name or not _is_folder(name):
            continue
        if isinstance(value, list) and len(value) == 2:
            library, architecture = value
            if isinstance(library, str) and isinstance(architecture, str):
                yield Component(name, library, architecture)


def _modules(facts: RepoFacts, token: str | None) -> Iterator[tuple[str, str]]:
    """Path and type of the modules of sentence-transformers, in their order."""
    broken = ModelUnsupported(
        f"The {MODULES_FILE} of {facts.ref.id} is not a list of modules.",
        "The repository may be broken; try another revision.",
    )
    try:
        found = parse_json(fetch_file(facts, MODULES_FILE, MAX_LIST_BYTES, token))
    except ValueError as error:
        raise broken from error
    if not isinstance(found, list) or len(found) > MAX_COMPONENTS:
        raise broken
    for module in found:
        if not isinstance(module, dict):
            raise broken
        path, kind = module.get("path"), module.get("type")
        if not isinstance(path, str) or not isinstance(kind, str) or not _is_folder(path):
            raise broken
        yield path.strip("/"), kind


def _is_folder(name: str) -> bool:
    """Whether a text may name a folder: it stands in the names of tensors, and on the page."""
    return len(name) <= MAX_FOLDER and name.isprintable()


def _paths(facts: RepoFacts, folder: str, ending: str) -> list[str]:
    """Files of weights that lie in a folder itself; of pickled ones those that a library would load."""
    inside = [
        path for path in facts.files if path.startswith(f"{folder}/") and path.count("/") == folder.count("/") + 1
    ]
    wanted = (path for path in inside if path.endswith(ending))
    return [path for path in wanted if ending != ".bin" or _PICKLED.fullmatch(path.rpartition("/")[2])]


def _specs(component: str, tensors: list[HeaderTensor]) -> list[TensorSpec]:
    """The tensors of a component under its name, with what they are for by their own names and shapes."""
    kept = component in _KEPT
    specs = classified(unpacked(tensors, None), read_numbers(None))
    return [
        replace(spec, name=f"{component}.{spec.name}", rows=0 if kept else spec.rows, role=_role(spec, kept))
        for spec in specs
    ]


def _role(spec: TensorSpec, kept: bool) -> Role:
    return "other" if kept and spec.role == "linear" else spec.role


def _told(component: Component, tensors: Iterable[HeaderTensor]) -> str:
    stored: dict[str, int] = {}
    elements = 0
    for tensor in tensors:
        stored[tensor.dtype] = stored.get(tensor.dtype, 0) + tensor.bytes
        elements += prod(tensor.shape)
    most = max(stored, key=lambda dtype: stored[dtype])
    return f"{component.shown}: {elements:,} parameters, stored in {most}"
