"""Model files, configurations, tokenizers, parameters, and the decoder with its head."""
