"""The Lab: the older methods of the field, run for real on small models.

Dynamic int8, pruning, and quantization-aware training beside post-training quantization; each measured in
bytes, in time and in what it costs. Not for models from the Hub: those are loaded by `quantspace.runtime`.
"""
