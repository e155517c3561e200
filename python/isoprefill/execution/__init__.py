"""From requests to log-probabilities: the engine, its algorithms, packs, compiled functions and the prefix cache."""
