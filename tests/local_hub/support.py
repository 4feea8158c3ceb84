"""What the tests of the local Hub share."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from tests.hub import LocalHub, SparseFile

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2}
TOKEN = "hf_ada_secret"
GB = 1_000_000_000
WEIGHTS = SparseFile.safetensors({"embed": ("BF16", (100, 64)), "norm": ("F32", (64,))})


def download(hub: LocalHub, cache: Path, file: str = "config.json", repo: str = "org/name", **options: object) -> bytes:
    options = {"token": False, **options}
    return Path(hf_hub_download(repo, file, endpoint=hub.url, cache_dir=cache, **options)).read_bytes()
