"""The ways to compute the same log-probabilities, and the choice between them."""
