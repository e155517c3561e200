"""Bad input to the mask op: each error names the argument, its value and the limit."""

import re

import numpy as np
import pytest

import isoprefill_csrc as csrc
from csrc_layout import build
from mask_definition import RequestSpec

TOO_LONG = 2**31


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"prefix_lens": [], "item_lens": []},
            "prefix_lens is empty; a pack must have at least 1 request",
        ),
        ({"prefix_lens": [0]}, "prefix_len of request 0 is 0; it must be from 1 to 2147483647"),
        ({"prefix_lens": [-3]}, "prefix_len of request 0 is -3; it must be from 1"),
        (
            {"prefix_lens": [TOO_LONG]},
            "prefix_len of request 0 is 2147483648; it must be from 1 to 2147483647",
        ),
        ({"prefix_lens": [2**63]}, "prefix_lens[0] is 9223372036854775808; it must be below 2^63"),
        ({"prefix_lens": [2**70]}, "prefix_lens is [1180591620717411303424]; it must be a one-dim"),
        (
            {"prefix_lens": [1.5]},
            "prefix_lens is [1.5]; it must be a one-dimensional sequence of integers",
        ),
        (
            {"prefix_lens": [True]},
            "prefix_lens is [True]; it must be a one-dimensional sequence of integers",
        ),
        (
            {"prefix_lens": [[5]]},
            "prefix_lens is [[5]]; it must be a one-dimensional sequence of integers",
        ),
        (
            {"prefix_lens": [[5], [1, 2]]},
            "prefix_lens is [[5], [1, 2]]; it must be a sequence of integers",
        ),
        (
            {"prefix_lens": "日" * 60},  # cut between characters
            f"prefix_lens is '{'日' * 18}...; it must be a one-dimensional sequence of integers",
        ),
        ({"item_lens": [[3, 0, 2]]}, "item_lens[1] of request 0 is 0; it must be from 1"),
        ({"item_lens": [[3, -1]]}, "item_lens[1] of request 0 is -1; it must be from 1"),
        (
            {"item_lens": [[2**31 - 4, 5]]},
            "bring the pack to 2147483654 columns; the limit is 2147483647",
        ),
        (
            {"item_lens": [["a"]]},
            "item_lens[0] is ['a']; it must be a one-dimensional sequence of integers",
        ),
        (
            {"item_lens": [3]},
            "item_lens[0] is 3; it must be a one-dimensional sequence of integers",
        ),
        ({"item_lens": 3}, "item_lens must be a sequence of 1 sequences, one per request"),
        ({"item_lens": [[1], [2]]}, "item_lens must be a sequence of 1 sequences, one per request"),
        (
            {"delimiters": ["tab"]},
            'delimiter is "tab"; it must be "none", "hidden" or "prefix_first"',
        ),
        ({"delimiters": ["none", "none"]}, "delimiters has 2 values; prefix_lens has 1 requests"),
        ({"cached_prefix": []}, "cached_prefix has 0 values; prefix_lens has 1 requests"),
        ({"causal": [True, True]}, "causal has 2 values; prefix_lens has 1 requests"),
        ({"shared_lens": []}, "shared_lens has 0 values; prefix_lens has 1 requests"),
        (
            {"shared_lens": [[0, 0]]},
            "shared_lens of request 0 has 2 values; it must have 1, one for each item",
        ),
        ({"shared_lens": [[1]]}, "shared_lens[0] of request 0 is 1; it must be from 0 to 0"),
        (
            {"item_lens": [[2, 9]], "shared_lens": [[0, 3]]},
            "shared_lens[1] of request 0 is 3; it must be from 0 to 2",
        ),
        (
            {"item_lens": [[9, 2]], "shared_lens": [[0, 2]]},
            "shared_lens[1] of request 0 is 2; it must be from 0 to 1",
        ),
        (
            {"item_lens": [[9, 9]], "shared_lens": [[0, 1]], "causal": [True]},
            "shared_lens[1] of request 0 is 1; it must be from 0 to 0",
        ),
        (
            {"pad_to": 7},
            "pad_to is 7; the pack has 8 rows, so it must be from 8 to 2147483647",
        ),
        ({"pad_to": TOO_LONG}, "pad_to is 2147483648; the pack has 8 rows"),
        (
            {"pad_columns_to": -1},
            "pad_columns_to is -1; the pack has 8 columns, so it must be from 8",
        ),
        ({"window": 0}, "window is 0; it must be from 1 to 2147483647"),
        ({"window": TOO_LONG}, "window is 2147483648; it must be from 1 to 2147483647"),
    ],
)
def test_bad_layouts(arguments, message):
    """Each names the argument, its value and the limit."""
    good = {"prefix_lens": [5], "item_lens": [[3]]}
    with pytest.raises(ValueError, match=re.escape(message)):
        csrc.build_layout(**(good | arguments))


def test_the_place_of_a_bad_length_is_named_in_large_packs():
    lens = np.full(100_000, 20)
    lens[77_777] = 0
    with pytest.raises(ValueError, match=r"item_lens\[77777\] of request 1 is 0"):
        csrc.build_layout(prefix_lens=[5, 5], item_lens=[[1], lens])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            RequestSpec(5, [3], "none"),
            'delimiter of request 1 is "none"; FlashInfer\'s parameters describe "hidden"',
        ),
        (RequestSpec(5, [3], "prefix_first"), 'delimiter of request 1 is "prefix_first"'),
        (RequestSpec(5, [3], "hidden", False, True), "causal of request 1 is true"),
        (
            RequestSpec(5, [3, 4], "hidden", shared_lens=[0, 2]),
            "shared_lens[1] of request 1 is 2; FlashInfer's parameters describe items that share",
        ),
        (
            RequestSpec(5, [3, 65_536], "hidden"),
            "item_lens[1] of request 1 is 65536; FlashInfer's limit is 65535",
        ),
    ],
)
def test_what_flashinfers_parameters_cannot_say(spec, message):
    layout = build([RequestSpec(5, [3], "hidden"), spec])
    with pytest.raises(ValueError, match=re.escape(message)):
        layout.flashinfer_params()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build([RequestSpec(5, [3])]).aligned_schedule(
                block_q=0, block_kv=4, local_block=1
            ),
            "block_q is 0; it must be from 1 to 2147483647",
        ),
        (
            lambda: build([RequestSpec(5, [3])]).aligned_schedule(
                block_q=4, block_kv=0, local_block=1
            ),
            "block_kv is 0; it must be from 1 to 2147483647",
        ),
        (
            lambda: build([RequestSpec(5, [3])]).aligned_schedule(
                block_q=4, block_kv=4, local_block=5
            ),
            "local_block is 5; it must be from 1 to block_q = 4",
        ),
        (
            lambda: build([RequestSpec(5, [3])]).choose_local_block(
                block_q=4, block_kv=4, candidates=[8]
            ),
            "candidates has no value from 1 to block_q = 4",
        ),
        (
            lambda: csrc.request_from_tokens(tokens=[1.5], delimiter_id=9, delimiter="hidden"),
            "tokens is [1.5]; it must be a one-dimensional sequence of integers",
        ),
        (
            lambda: csrc.request_from_tokens(tokens=[1, 2], delimiter_id=9, delimiter="none"),
            'delimiter is "none"; finding the items of packed tokens needs "hidden" or "prefix_first"',
        ),
    ],
)
def test_other_bad_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_mask_beyond_memory_is_a_memory_error():
    # 144 TB, more than a process can address.
    layout = build([RequestSpec(6_000_000, [])], pad_columns_to=24_000_000)
    with pytest.raises(MemoryError):
        layout.dense_mask()
