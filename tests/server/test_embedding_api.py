"""Embedding vectors and several reads over HTTP: the numbers of the same tokens, and errors that say where.

If one of these fails, items that a client computed beforehand score as others, or a wrong vector costs more than its
own request.
"""

import base64

import numpy as np
import pytest

from api_answers import code_of
from http_oracle import MODEL, oracle_labels, tokens_of
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from isoprefill.server.dispatch import VECTOR_BYTES, queue_cost
from isoprefill.server.embed_overrides import EncodedVectors, decoded_overrides

pytest_plugins = ["server_fixtures"]

WEIGHTS = MODEL.get_input_embeddings().weight.detach().numpy()
TOKEN = 290
ROW = [0.0] * 64


def encoded(vectors: np.ndarray, dtype: str) -> dict[str, str]:
    data = np.ascontiguousarray(vectors, "<f4")
    if dtype == "bfloat16":
        data = (data.view("<u4") >> 16).astype("<u2")
    return {"base64": base64.b64encode(data.tobytes()).decode(), "dtype": dtype}


def test_vectors_score_as_their_tokens(server):
    """As lists and as base64, in the query and in items; null leaves the token what it is."""
    query, items = tokens_of("abc"), [tokens_of("some text"), [TOKEN], tokens_of("x")]
    labels = {"label_token_ids": [1, 2]}
    expected = server.score(query=query, items=items, **labels)["scores"]
    overridden = [TOKEN, *query[1:]], [[TOKEN] * len(items[0]), [TOKEN], [TOKEN]]
    vectors = WEIGHTS[items[0]], WEIGHTS[items[2]]
    for first, last in (
        (vectors[0].tolist(), encoded(vectors[1], "float32")),
        (encoded(vectors[0], "float32"), vectors[1].tolist()),
    ):
        answer = server.score(
            query=overridden[0],
            items=overridden[1],
            embed_override_token_id=TOKEN,
            query_embed_overrides=WEIGHTS[query[:1]].tolist(),
            item_embed_overrides=[first, None, last],
            **labels,
        )
        assert answer["scores"] == expected


def test_bfloat16_is_the_upper_half_of_float32():
    """To the bit."""
    values = np.asarray([[1.0, -2.5], [3.140625, 1e-30]], np.float32)
    rounded = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    made = decoded_overrides(7, EncodedVectors(**encoded(values, "bfloat16")), None, 2)
    np.testing.assert_array_equal(made.query, rounded)


ITEM = {"items": [[TOKEN, 1]], "embed_override_token_id": TOKEN}
WRONG = {
    "width": (ITEM | {"item_embed_overrides": [[ROW[:63]]]}, "item_embed_overrides[0][0]"),
    "count": (ITEM | {"item_embed_overrides": [[ROW, ROW]]}, "item_embed_overrides[0]"),
    "no vector": (ITEM | {"item_embed_overrides": [[]]}, "item_embed_overrides[0]"),
    "lists": (ITEM | {"item_embed_overrides": [[ROW], [ROW]]}, "item_embed_overrides"),
    "query": (
        ITEM | {"query": [TOKEN], "query_embed_overrides": [ROW[1:]]},
        "query_embed_overrides[0]",
    ),
    "beyond float32": (
        ITEM | {"item_embed_overrides": [[[*ROW[1:], 1e39]]]},
        "item_embed_overrides[0][0]",
    ),
    "NaN": (
        ITEM | {"item_embed_overrides": [encoded(np.full((1, 64), np.nan), "bfloat16")]},
        "item_embed_overrides[0][0]",
    ),
    "bytes": (
        ITEM | {"item_embed_overrides": [encoded(np.ones((1, 63)), "float32")]},
        "item_embed_overrides[0]",
    ),
    "not base64": (
        ITEM | {"item_embed_overrides": [{"base64": "?é", "dtype": "float32"}]},
        "item_embed_overrides[0]",
    ),
    "no token": ({"query_embed_overrides": [ROW]}, "embed_override_token_id"),
    "no vectors": ({"embed_override_token_id": TOKEN}, "embed_override_token_id"),
    "likelihood": (
        ITEM | {"item_embed_overrides": [[ROW]], "label_token_ids": None},
        "items[0]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_vectors_are_refused_where_they_are(server, case):
    body, param = WRONG[case]
    body = {"query": [1], "items": [[1]], "label_token_ids": [1]} | body
    response = server.post("/v1/score", **body)
    assert code_of(response) == "invalid_embed_overrides"
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ([[[1, "2"]]], "item_embed_overrides[0][0][1]"),
        ([[1]], "item_embed_overrides[0][0]"),
        ([{"base64": "", "dtype": "float64"}], "item_embed_overrides[0]"),
        ([{"base64": ""}], "item_embed_overrides[0]"),
    ],
)
def test_what_is_no_vector_is_refused(server, overrides, param):
    body = {"query": [1], "label_token_ids": [1], "item_embed_overrides": overrides} | ITEM
    response = server.post("/v1/score", **body)
    assert code_of(response) == "invalid_parameter_type"
    assert response.json()["error"]["param"] == param


def test_vectors_count_in_the_queue(model_directory):
    """By their bytes: a few thousand short items of vectors are not a few thousand tokens to wait with."""
    tokenizer = load_tokenizer(model_directory)
    preparer = Preparer(tokenizer, ModelLimits(300, 512, 512, 64))
    overrides = decoded_overrides(TOKEN, None, [[ROW]], 64)
    options = ScoreOptions(labels=preparer.labels(["a"]))
    request = preparer.request([1], [[TOKEN]], options, overrides=overrides)
    assert queue_cost(request, 1) == 2 + 1 + 64 * 4 // VECTOR_BYTES


# Several reads in an item


def test_reads_at_a_token(server):
    """A row for each token, in order; with softmax over the labels of each."""
    items = ["ab.cd.", "."]
    answer = server.score(
        query="abc", items=items, label_token_ids=[1, 2], score_extraction_token="."
    )
    expected = [[oracle_labels("abc", cut, [1, 2]) for cut in ("ab.", "ab.cd.")]]
    expected.append([oracle_labels("abc", ".", [1, 2])])
    assert [len(rows) for rows in answer["scores"]] == [2, 1]
    for rows, wanted in zip(answer["scores"], expected, strict=True):
        np.testing.assert_allclose(np.log(rows), wanted, atol=1e-3)
    answer = server.score(
        query="abc",
        items=items,
        label_token_ids=[[1, 2], [3]],
        score_extraction_token=".",
        apply_softmax=True,
        return_logprob=True,
        return_pooled_hidden_states=True,
    )
    assert [[len(row) for row in rows] for rows in answer["scores"]] == [[2, 2], [1]]
    assert [[len(row) for row in rows] for rows in answer["logprobs"]] == [[2, 2], [1]]
    assert [[len(row) for row in rows] for rows in answer["pooled_hidden_states"]] == [
        [64] * 2,
        [64],
    ]
    np.testing.assert_allclose(np.sum(answer["scores"][0], axis=1), 1)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"items": [".", "a"]}, "invalid_extraction_token", "items[1]"),
        ({"query": "a."}, "invalid_extraction_token", "query"),
        ({"item_first": True}, "invalid_extraction_token", "score_extraction_token"),
        ({"label_token_ids": None}, "invalid_extraction_token", "score_extraction_token"),
        ({"top_n": 1}, "invalid_extraction_token", "top_n"),
        ({"score_extraction_token": "ab"}, "invalid_label", "score_extraction_token"),
    ],
)
def test_reads_that_mean_nothing_are_refused(server, body, code, param):
    good = {
        "query": "a",
        "items": ["."],
        "label_token_ids": [1],
        "score_extraction_token": ".",
    }
    response = server.post("/v1/score", **good | body)
    assert code_of(response) == code
    assert response.json()["error"]["param"] == param
