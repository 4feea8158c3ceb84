"""NF4 for mixture-of-experts models: fused experts are quantized one by one while a checkpoint is read.

transformers keeps the experts of a layer in one parameter of three dimensions, which bitsandbytes passes over, so
that "4-bit" holds them in 16 bits. Here `quantizer.py` takes each such parameter as it is read, `packing.py` packs it,
`forward.py` unpacks the experts that a token visits when it visits them. What is a linear layer is left to
transformers and bitsandbytes, and which parameters are experts to the estimate.
"""

from .quantizer import experts_of, load_with_experts

__all__ = ["experts_of", "load_with_experts"]
