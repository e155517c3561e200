"""Model files: safetensors, GGUF, quantised tensors, adapters, and what damage in them is called."""
