"""Inventories of models whose class can't be built: from the headers of their files, or from less.

`inventory.py` reads every tensor of safetensors headers (`packing.py` undoes quantized storage, `classify.py` tells
what each is for, `geometry.py` how the cache grows). `counts.py` has no more than a number of parameters, `sizes.py`
no more than the sizes of pickled files: both assume a shape. None of it needs torch or transformers.
"""

from .counts import inventory_from_counts
from .inventory import inventory_from_headers, refuse_too_many
from .sizes import inventory_from_sizes

__all__ = ["inventory_from_counts", "inventory_from_headers", "inventory_from_sizes", "refuse_too_many"]
