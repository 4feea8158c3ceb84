"""What a precision costs in quality: perplexity, and how far from the unquantized model, on a text.

`text` is what is read, `figures` what is said about it, `task` what a worker is told to do; only `logits` and
`score`, which do it there, import torch. Answers and benchmarks are not judged here.
"""
