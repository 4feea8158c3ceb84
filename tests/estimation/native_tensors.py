"""What a config that is stored quantized holds, tensor by tensor and in sums."""

from quantspace.estimation.architecture import model_class, parse_config
from quantspace.estimation.native import native_tensors
from quantspace.precision import DTYPE_BYTES


def tensors_of(config, hf_quant_config=None):
    parsed = parse_config(config)
    return native_tensors(config, parsed, model_class(parsed), hf_quant_config)[0]


def bytes_of(tensors):
    return sum(t.elements * DTYPE_BYTES[t.dtype_under("bfloat16")] for t in tensors if t.tied_to is None)


def elements_of(tensors, *dtypes):
    held = [t for t in tensors if t.tied_to is None]
    return sum(t.elements for t in held if not dtypes or t.dtype_under("bfloat16") in dtypes)
