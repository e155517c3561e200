"""Attention in plain XLA, for every platform."""
