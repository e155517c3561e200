"""Attention by its definition, the reference."""
