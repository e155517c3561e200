"""Where a model comes from: a path, the Hub's cache, the default model; and what is known of it unloaded."""
