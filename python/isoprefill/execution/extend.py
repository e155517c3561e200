"""Algorithms "prefill_extend" and "packed_extend": items over a prefix that is computed once and kept."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.padding import bucket_size
from isoprefill.execution.device import Device
from isoprefill.execution.lanes import pad, side_by_side, stack_packs
from isoprefill.execution.packing import Piece, Tokens, chunks, equal_length_batches
from isoprefill.execution.prefill import read
from isoprefill.execution.prefix_cache import CachedPrefix, PrefixCache
from isoprefill.execution.readout import Readout
from isoprefill.execution.step_inputs import PackInputs, PrefixState


def extend_piece(
    device: Device, cache: PrefixCache, piece: Piece, chunk_tokens: int, *, padded: bool
) -> tuple[int, Iterator[tuple[Readout, Float[np.ndarray, "M K"]]]]:
    """Scores a piece in chunks over its prefix.

    Args:
        device: where to compute.
        cache: where prefixes are kept.
        piece: what to score; isolated.
        chunk_tokens: rows of a chunk.
        padded: batches of items of similar length, padded to the longest, instead of chunks without padding.

    Returns:
        how many tokens of the prefix the cache had, and what is asked of each chunk with the answers.
    """
    prefix, reused = _prefix(device, cache, piece.cacheable_prefix)
    parts = (equal_length_batches if padded else chunks)(piece, chunk_tokens)
    return reused, _extend(device, prefix, parts, padded)


def _extend(
    device: Device, prefix: CachedPrefix, parts: Iterator[Piece], padded: bool
) -> Iterator[tuple[Readout, Float[np.ndarray, "M K"]]]:
    state = PrefixState(prefix.keys, prefix.values, prefix.last_hidden)
    for group in side_by_side(parts, device.lanes):
        items = [
            part.padded_to(max(item.size for item in part.items)) if padded else part.items
            for part in group
        ]
        tokens = [part.tokens_after_cache(own) for part, own in zip(group, items, strict=True)]
        rows = bucket_size(max(of_part.size for of_part in tokens))
        layouts = [
            PackedLayout.from_lengths(
                part.prefix.size,
                [item.size for item in own],
                delimiter=part.request.delimiter,
                cached_prefix=True,
                pad_to=rows,
                pad_columns_to=prefix.keys.shape[1] + rows,
            )
            for part, own in zip(group, items, strict=True)
        ]
        readouts = [
            Readout.of([part], layout.item_first_rows, layout.item_context_rows)
            for part, layout in zip(group, layouts, strict=True)
        ]
        inputs = stack_packs(device, tokens, layouts)
        hidden = device.steps.extend(device.params, inputs, state, np.int32(prefix.tokens.size))
        yield from read(device, hidden, readouts)


def _prefix(device: Device, cache: PrefixCache, tokens: Tokens) -> tuple[CachedPrefix, int]:
    """The prefix, computed as far as the cache does not have it, and how many tokens the cache had."""
    found, reused = cache.find(tokens)
    if found is not None and reused == tokens.size:
        return found, reused
    columns = bucket_size(tokens.size)
    new = tokens[reused:]
    rows = bucket_size(new.size)
    last_row = np.int32(new.size - 1)
    if found is None:
        layout = PackedLayout.from_lengths(tokens.size, [], pad_to=rows)
        state = device.steps.prefill_prefix(device.params, _single(device, new, layout), last_row)
    else:
        layout = PackedLayout.from_lengths(
            reused,
            [new.size],
            cached_prefix=True,
            pad_to=rows,
            pad_columns_to=found.keys.shape[1] + rows,
        )
        state = device.steps.extend_prefix(
            device.params,
            _single(device, new, layout),
            PrefixState(found.keys, found.values, found.last_hidden),
            np.int32(reused),
            last_row,
            columns,
        )
    prefix = CachedPrefix(tokens, state.keys, state.values, state.last_hidden)
    cache.keep(prefix)
    return prefix, reused


def prefix_bytes(device: Device, num_tokens: int) -> int:
    """What a prefix of so many tokens takes in the cache (`CachedPrefix.num_bytes`)."""
    config = device.config
    of_column = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    numbers = of_column * bucket_size(num_tokens) + config.hidden_size
    return numbers * device.params.final_norm.dtype.itemsize


def _single(device: Device, tokens: Tokens, layout: PackedLayout) -> PackInputs:
    """A pack that is the same on every device, without an axis of lanes."""
    (layout,) = device.with_schedules([layout])
    return PackInputs(pad(tokens, layout.num_rows), layout)
