"""Text to tokens and back, from tokenizer.json and from GGUF."""
