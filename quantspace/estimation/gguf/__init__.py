"""GGUF what-ifs: how llama.cpp's quantizer mixes the tensors of a model."""
