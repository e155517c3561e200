"""PyTorch's side of every comparison: the same weights scored by transformers and by other systems' masks.

An oracle and a peer for isoprefill, written from the definitions in docs/design.md and sharing no mask, layout or
attention code with it. Nothing else in the product imports torch, and the wheel does not hold this package.
"""

from isoprefill_torch.model import CausalLM, load_model
from isoprefill_torch.scorer import METHODS, Method, TorchScorer

__all__ = ["METHODS", "CausalLM", "Method", "TorchScorer", "load_model"]
