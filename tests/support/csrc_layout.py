"""The C++ op's layout of the requests that tests/mask_definition.py defines."""

from collections.abc import Sequence

from isoprefill_csrc import Layout, build_layout
from mask_definition import RequestSpec


def build(
    requests: Sequence[RequestSpec],
    pad_to: int | None = None,
    pad_columns_to: int | None = None,
    window: int | None = None,
) -> Layout:
    return build_layout(
        prefix_lens=[spec.prefix_len for spec in requests],
        item_lens=[list(spec.item_lens) for spec in requests],
        delimiters=[spec.delimiter for spec in requests],
        cached_prefix=[spec.cached_prefix for spec in requests],
        causal=[spec.causal for spec in requests],
        shared_lens=[list(spec.shared_lens) for spec in requests],
        pad_to=pad_to,
        pad_columns_to=pad_columns_to,
        window=window,
    )
