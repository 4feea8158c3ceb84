"""QuantSpace: will this model fit my GPU, at which precision? And then: show me.

>>> from quantspace import estimate
>>> estimate("google/gemma-3-4b-it", gpu="t4").recommended
'bf16'
"""

from .estimation.calculator import Estimate, estimate

__all__ = ["Estimate", "estimate"]
