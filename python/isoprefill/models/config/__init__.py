"""What a model is, as its files say: architecture, sizes, RoPE, windows, classes, and the table of its parameters."""
