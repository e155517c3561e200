"""Packed tokens are read as the request that they were packed from, or refused."""

import itertools

import pytest
from hypothesis import strategies as st

import isoprefill_csrc as csrc
from mask_definition import RequestSpec
from random_packs import cases, requests

DELIMITER_ID = 9


def packed_tokens(spec):
    tokens = [1] * spec.prefix_len
    if spec.item_lens:
        tokens.append(DELIMITER_ID)
    for length in spec.item_lens:
        tokens += [2] * length + [DELIMITER_ID]
    return tokens


with_delimiter = requests(delimiters=["hidden", "prefix_first"], causal=st.just(False)).map(
    lambda spec: spec._replace(cached_prefix=False)
)


@cases(with_delimiter)
def test_tokens_give_their_request(spec):
    """The request found in its packed tokens is the one that they were packed from."""
    tokens = packed_tokens(spec)
    prefix_len, item_lens = csrc.request_from_tokens(
        tokens=tokens, delimiter_id=DELIMITER_ID, delimiter=spec.delimiter
    )
    assert (prefix_len, item_lens.tolist()) == (spec.prefix_len, list(spec.item_lens))


@cases(st.lists(st.integers(0, 2), max_size=12))
def test_any_tokens_are_a_request_or_an_error(tokens):
    """No sequence is misread: what is accepted packs to the very same tokens, also with delimiter id 0."""
    delimiters = [i for i, token in enumerate(tokens) if token == 0]
    no_empty = (
        bool(tokens)
        and tokens[0] != 0
        and all(b - a > 1 for a, b in itertools.pairwise(delimiters))
    )
    good = no_empty and (not delimiters or (len(delimiters) > 1 and tokens[-1] == 0))
    if not good:
        with pytest.raises(ValueError, match="tokens"):
            csrc.request_from_tokens(tokens=tokens, delimiter_id=0, delimiter="hidden")
        return
    prefix_len, item_lens = csrc.request_from_tokens(
        tokens=tokens, delimiter_id=0, delimiter="hidden"
    )
    packed = packed_tokens(RequestSpec(prefix_len, item_lens.tolist()))
    assert [token == DELIMITER_ID for token in packed] == [token == 0 for token in tokens]
