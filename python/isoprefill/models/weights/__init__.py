"""A model's weights: where a file keeps each parameter, and how it lies in memory."""
