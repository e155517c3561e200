"""Isolated multi-item attention: one operation, several back ends."""

from isoprefill.attention.op import multi_item_attention

__all__ = ["multi_item_attention"]
