"""Scores the same weights with PyTorch: with transformers, and under the masks of other systems.

An oracle for the tests and a peer for the benchmarks, written from the definitions in docs/design.md. It shares no
mask, layout or attention code with isoprefill. Nothing else in the product imports torch, and the wheel does not hold
this package.
"""

from isoprefill_torch.model import CausalLM, load_model
from isoprefill_torch.scorer import METHODS, Method, TorchScorer

__all__ = ["METHODS", "CausalLM", "Method", "TorchScorer", "load_model"]
