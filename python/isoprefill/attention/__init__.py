"""Isolated multi-item attention: one operation, several back ends."""

from isoprefill.attention.op import multi_item_attention
from isoprefill_pallas.heads import AttentionHeads

__all__ = ["AttentionHeads", "multi_item_attention"]
