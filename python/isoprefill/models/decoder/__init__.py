"""The computation: the decoder's layers, RoPE and the head, by XLA and by a CPU's own operations."""
