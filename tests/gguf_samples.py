"""GGUF files for tests, their headers written by the `gguf` package: sparse ones of true size."""

import struct
import tempfile
from functools import lru_cache
from math import prod
from pathlib import Path

import gguf
import numpy as np

from quantspace.estimation.gguf.names import gguf_tensors
from quantspace.hub.gguf_header import parse_header
from tests.hub import SparseFile

BYTES = {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}

LLAMA = {
    "block_count": 4, "context_length": 131072, "embedding_length": 4096, "attention.head_count": 32,
    "attention.head_count_kv": 8, "general.file_type": 15,
}  # fmt: skip


def tensor_bytes(shape, kind):
    block, size = BYTES[kind]
    return prod(shape) // block * size


def sparse_gguf(architecture, metadata, tensors, vocabulary=0, parts=1, endian=gguf.GGUFEndian.LITTLE):
    """Files of true size whose data are zeros: one, or the parts of a split one.

    Args:
        metadata: key without the architecture's prefix → number, text or list.
        tensors: name → (shape as in PyTorch, ggml's name of a type).
        vocabulary: tokens; each has a score and a type, as SentencePiece's do. Not of split files.
    """
    with tempfile.TemporaryDirectory() as folder:
        each = -(-len(tensors) // parts) if parts > 1 else 0
        writer = gguf.GGUFWriter(Path(folder) / "model.gguf", architecture, endianess=endian, split_max_tensors=each)
        _add(writer, architecture, metadata)
        for name, (shape, kind) in tensors.items():
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor_bytes(shape, kind), raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        ends = [file.tell() for file in writer.fout]
        writer.write_ti_data_to_file()
        writer.close()
        headers = [file.read_bytes() for file in sorted(Path(folder).iterdir())]
    if vocabulary:
        headers = [_with_vocabulary(headers[0], ends[0], vocabulary)]
    sizes = [sum(_padded(info.nbytes) for info in part.values()) for part in writer.tensors]
    files = [SparseFile(_padded(len(header)) + size, {0: header}) for header, size in zip(headers, sizes, strict=True)]
    return files if parts > 1 else files[0]


def _with_vocabulary(header, end, vocabulary):
    """A little-endian header with three keys more after its last: writing those takes seconds, so it is done once."""
    (keys,) = struct.unpack_from("<Q", header, 16)
    return header[:16] + struct.pack("<Q", keys + 3) + header[24:end] + _vocabulary(vocabulary) + header[end:]


@lru_cache(maxsize=4)
def _vocabulary(count):
    with tempfile.TemporaryDirectory() as folder:
        writer = gguf.GGUFWriter(Path(folder) / "vocabulary.gguf", "llama")
        writer.add_token_list([f"▁token{number}" for number in range(count)])
        writer.add_token_scores([0.0] * count)
        writer.add_token_types([1] * count)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        written = (Path(folder) / "vocabulary.gguf").read_bytes()
    return written[written.index(struct.pack("<Q", 21) + b"tokenizer.ggml.tokens") :]


def tensors_of(inventory):
    """The tensors of a model's GGUF file, as llama.cpp's converter names and shapes them: name → shape."""
    return {
        (tensor.name if tensor.layer < 0 else f"blk.{tensor.layer}.{tensor.name}"): tensor.shape
        for tensor in gguf_tensors(inventory)
    }


def quantized(shapes, kind, output="Q6_K"):
    """Those tensors in one type where their rows suit its blocks; vectors in float32, as in all files.

    Args:
        output: type of the embeddings and of the head.
    """

    def type_of(name, shape):
        wanted = output if name in ("token_embd.weight", "output.weight") else kind
        if len(shape) < 2:
            return "F32"
        return wanted if shape[-1] % BYTES[wanted][0] == 0 else "F16"

    return {name: (shape, type_of(name, shape)) for name, shape in shapes.items()}


def _padded(size):
    return -(-size // 32) * 32


def _add(writer, architecture, metadata):
    for key, value in metadata.items():
        full = key if key.startswith(("general.", "tokenizer.", "split.", "quantize.")) else f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        elif isinstance(value, str):
            writer.add_string(full, value)
        else:
            writer.add_array(full, value)


def llama_tensors(layers=4, tied=False, width=4096):
    """Shapes of a small Llama: name → shape."""
    block = {
        "attn_norm.weight": (width,), "attn_q.weight": (width, width), "attn_k.weight": (width // 4, width),
        "attn_v.weight": (width // 4, width), "attn_output.weight": (width, width), "ffn_norm.weight": (width,),
        "ffn_gate.weight": (3 * width, width), "ffn_up.weight": (3 * width, width),
        "ffn_down.weight": (width, 3 * width),
    }  # fmt: skip
    shapes = {"token_embd.weight": (32_000, width), "output_norm.weight": (width,)}
    shapes |= {} if tied else {"output.weight": (32_000, width)}
    return shapes | {f"blk.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}


def llama_files(kinds=("Q8_0", "Q4_K", "Q2_K"), **how):
    shapes = llama_tensors(**how)
    layers = {"block_count": how.get("layers", 4)}
    return {f"m-{kind}.gguf": sparse_gguf("llama", LLAMA | layers, quantized(shapes, kind), 1000) for kind in kinds}


def sum_of(shapes, kind):
    return sum(tensor_bytes(shape, each) for shape, each in quantized(shapes, kind).values())


def header_of(file):
    return parse_header(lambda start, length: file.read(start, min(start + length, file.size)), file.size, "m.gguf")
