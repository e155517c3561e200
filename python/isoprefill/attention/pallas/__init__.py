"""Attention with the TPU kernel of isoprefill_pallas."""
