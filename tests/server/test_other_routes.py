"""Routes beside scoring and reranking: generative scoring, tokens of texts, layouts, and the names of the model."""

import threading

import httpx
import numpy as np
import pytest
import transformers

from api_answers import code_of
from http_oracle import MODEL, oracle_labels, tokens_of
from huggingface_directory import save_directory
from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine
from isoprefill.server.settings import Limits
from mask_definition import RequestSpec, define
from mask_definition import tokens_of as definition_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def engine(model: str) -> ScoringEngine:
    return ScoringEngine.from_pretrained(model)


@pytest.fixture(scope="module")
def client(engine: ScoringEngine, model: str) -> Client:
    return Client(in_process_service(engine, model))


@pytest.mark.parametrize("softmax", [None, False])
def test_generative_scoring_answers_the_first_labels_probability(client, softmax):
    """vLLM normalises over the labels unless it is told not to; fields that it alone knows are ignored."""
    options = {} if softmax is None else {"apply_softmax": softmax}
    body = {"query": "abc", "items": ["x", "yz"], "label_token_ids": [7, 3], "priority": 0}
    answer = client.post("/generative_scoring", **body, **options).json()
    assert answer["object"] == "list"
    assert [one["index"] for one in answer["data"]] == [0, 1]
    for one, item in zip(answer["data"], ("x", "yz"), strict=True):
        first, second = oracle_labels("abc", item, [7, 3])
        expected = np.exp(first)
        if softmax is None:
            expected /= np.exp(first) + np.exp(second)
        assert one["score"] == pytest.approx(expected, abs=1e-3)
    tokens = client.post(
        "/generative_scoring",
        **body | {"query": tokens_of("abc"), "items": [tokens_of("x")]},
        **options,
    )
    assert tokens.json()["data"][0] == answer["data"][0]
    mixed = {"query": [1], "items": ["b"], "label_token_ids": [1]}
    assert code_of(client.post("/generative_scoring", **mixed)) == "mixed_input_types"
    assert code_of(client.post("/generative_scoring", query="a", items=["b"])) == (
        "invalid_label_token_ids_type"
    )


def test_texts_become_tokens_and_tokens_texts(client):
    text = "añ<s>b"
    answer = client.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert answer["tokens"] == tokens_of(text)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 512
    assert answer["token_strs"][0] == "a"
    assert answer["token_strs"][3] == "<s>"
    assert client.post("/detokenize", tokens=answer["tokens"]).json() == {"prompt": text}
    assert client.post("/tokenize", prompt="").json()["tokens"] == []
    assert client.post("/detokenize", tokens=[]).json() == {"prompt": ""}


def test_clients_of_text_embeddings_inference_get_their_shape_of_tokens(client, model):
    """They send `inputs`, and read a list for each text; places are in characters, as in transformers."""
    texts = ["añ<s>b c", "", "x"]
    answer = client.post("/tokenize", inputs=texts, add_special_tokens=False).json()
    oracle = transformers.AutoTokenizer.from_pretrained(model)
    for text, tokens in zip(texts, answer, strict=True):
        expected = oracle(text, add_special_tokens=False, return_offsets_mapping=True)
        places = [(one["start"], one["stop"]) for one in tokens]
        assert [one["id"] for one in tokens] == expected["input_ids"]
        assert places == expected["offset_mapping"]
        assert [one["text"] for one in tokens] == [text[start:stop] for start, stop in places]
        assert not any(one["special"] for one in tokens)
    assert client.post("/tokenize", inputs=texts[0], add_special_tokens=False).json() == answer[:1]
    begun = client.post("/tokenize", inputs="x").json()[0]
    plain = client.post("/tokenize", prompt="x").json()["tokens"]
    assert [one["id"] for one in begun] == plain
    assert client.post("/tokenize", inputs=5, prompt="x").json()["tokens"] == plain
    refused = client.post("/tokenize", inputs=5)
    assert (refused.status_code, refused.json()["error_type"]) == (400, "Validation")
    assert "inputs" in refused.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/tokenize", {}, "invalid_parameter_type"),
        ("/tokenize", {"prompt": 5}, "invalid_parameter_type"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model_not_found"),
        ("/detokenize", {"tokens": ["a"]}, "invalid_parameter_type"),
        ("/detokenize", {"tokens": [300]}, "token_id_exceeds_vocab"),
        ("/detokenize", {"tokens": [-1]}, "invalid_parameter_type"),
    ],
)
def test_bad_bodies_of_token_routes(client, path, body, code):
    assert code_of(client.post(path, **body)) == code


def test_the_model_has_the_names_that_it_is_given(engine, model):
    """A client that asks for another model must not get this one's scores; one that was told a name must."""
    client = Client(in_process_service(engine, model, served_model_name=("org/one", "two")))
    body = {"query": "a", "items": ["b"]}
    for name in ("org/one", "two", "default", None):
        answer = client.post("/v1/score", **body, **({} if name is None else {"model": name}))
        assert answer.json()["model"] == "org/one"
    for name in ("tiny", "three", ""):
        assert code_of(client.post("/v1/score", **body, model=name)) == "model_not_found"
        refused: httpx.Response = client.post("/v1/rerank", query="a", documents=["b"], model=name)
        assert code_of(refused) == "model_not_found"
    listed = client.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["org/one", "two"]
    assert client.get("/v1/models/org/one").json()["id"] == "org/one"
    assert client.get("/v1/models/tiny").status_code == 404


def test_where_special_tokens_of_texts_are_ordinary_is_the_servers_setting(engine, model):
    """By default in rerank only, whose texts strangers write."""
    tokens = {}
    for setting in ("rerank", "always", "never"):
        client = Client(in_process_service(engine, model, untrusted_text=setting))
        score = client.post("/v1/score", query="a<s>", items=["b"])
        rerank = client.post("/v1/rerank", query="a", documents=["b<s>"])
        tokens[setting] = [one.json()["usage"]["prompt_tokens"] for one in (score, rerank)]
    special, ordinary = tokens["never"], tokens["always"]
    assert [more - less for more, less in zip(ordinary, special, strict=True)] == [2, 2]
    assert tokens["rerank"] == [special[0], ordinary[1]]


LAYOUTS = [
    ({}, {}),
    ({"isolation": "causal"}, {}),
    ({}, {"delimiter": "hidden", "delimiter_token_id": 299}),
    ({}, {"delimiter": "prefix_first", "delimiter_token_id": 299}),
    ({"tokenization": "joint"}, {}),
]


@pytest.mark.parametrize(("body", "settings"), LAYOUTS)
def test_the_layout_is_that_of_the_definition(engine, model, body, settings):
    """A picture of another mask than the one that scores would reassure people who have a leak."""
    client = Client(in_process_service(engine, model, **settings))
    query, items = "abcdefghijk", ["xy", "z" * 19, "äb<s>", "q"]
    answer = client.post(
        "/v1/layout", query=query, items=items, return_token_strs=True, **body
    ).json()
    spec = RequestSpec(
        len(tokens_of(query)),
        [len(tokens_of(item)) for item in items],
        settings.get("delimiter", "none"),
        causal=body.get("isolation") == "causal",
    )
    expected = define([spec])
    size = answer["num_tokens"]
    assert answer["positions"] == expected.positions.tolist()
    columns = np.arange(size)
    prefix_begin, prefix_end, own_begin, own_end = np.array(answer["sees"]).T[:, :, None]
    seen = ((columns >= prefix_begin) & (columns < prefix_end)) | (
        (columns >= own_begin) & (columns < own_end)
    )
    np.testing.assert_array_equal(seen, expected.mask)
    computed = np.zeros((size, size), int)
    for row_begin, row_end, column_begin, column_end in answer["tiles"]:
        assert seen[row_begin:row_end, column_begin:column_end].any()
        computed[row_begin:row_end, column_begin:column_end] += 1
    assert computed.max() == 1
    assert computed[seen].all()
    assert answer["pairs"] == {
        "seen": seen.sum(),
        "computed": computed.sum(),
        "causal": np.tri(size).sum(),
        "all": size * size,
    }
    kinds = [kind for _, _, kind, _ in definition_tokens(spec)]
    if spec.delimiter == "prefix_first":  # which counts the first one to the prefix
        kinds[spec.prefix_len] = "d"
    found = [(one["kind"][0], one["end"] - one["begin"]) for one in answer["segments"]]
    assert "".join(kind * length for kind, length in found) == "".join(kinds)
    texts = answer["token_strs"]
    of_items = [
        "".join(texts[one["begin"] : one["end"]])
        for one in answer["segments"]
        if one["kind"] == "item"
    ]
    assert "".join(texts[: spec.prefix_len]) == query
    assert of_items == [item.replace("ä", "\ufffd\ufffd") for item in items]


def test_a_layout_of_many_tokens_has_few_tiles(client):
    """Tiles of one size would be a quarter of a million for the longest request, and an answer of megabytes."""
    for number in (3, 300):
        answer = client.post("/v1/layout", query="a" * 400, items=["b" * 100] * number).json()
        assert answer["num_tokens"] == 400 + 100 * number
        rows = -(-answer["num_tokens"] // answer["tile"])
        assert 32 <= rows <= 64
        assert len(answer["tiles"]) <= rows * rows + number * (1 + 100 // answer["tile"]) ** 2
        assert answer["token_strs"] is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"items": []}, "empty_items"),
        ({"items": ["a", ""]}, "empty_item"),
        ({"items": [[1]]}, "mixed_input_types"),
        ({"items": ["a" * 600]}, "context_length_exceeded"),
        ({"items": ["a" * 200] * 3, "isolation": "causal"}, "context_length_exceeded"),
        ({"items": ["a"] * 5000}, "too_many_items"),
        ({"items": ["a" * 400] * 400}, "too_many_tokens"),
        ({"items": ["a"], "labels": ["b"]}, "unknown_parameter"),
        ({"items": ["a"], "model": "other"}, "model_not_found"),
        ({"items": ["a"], "isolation": "some"}, "invalid_isolation"),
    ],
)
def test_what_cannot_be_scored_has_no_layout(client, body, code):
    """The same codes as /v1/score's, and the same bounds: what is refused there costs nothing here."""
    assert code_of(client.post("/v1/layout", query="q", **body)) == code


def test_a_layout_that_takes_too_long_is_given_up(engine, model, monkeypatch):
    """Nobody scores a layout, so only this limit ends the wait of its client."""
    ended = threading.Event()

    def slow(request):
        ended.wait(60)
        raise AssertionError("nobody waits for it")

    monkeypatch.setattr("isoprefill.server.routes_layout.PackPicture.of", slow)
    service = in_process_service(engine, model, limits=Limits(request_timeout_s=0.05))
    try:
        refused = Client(service).post("/v1/layout", query="a" * 200, items=["b" * 200] * 50)
        assert (refused.status_code, code_of(refused)) == (503, "request_timeout")
        assert "0.05 seconds" in refused.text
    finally:
        ended.set()


def test_a_server_without_causal_scores_has_no_causal_layout(engine, model):
    client = Client(in_process_service(engine, model, delimiter="hidden", delimiter_token_id=299))
    refused = client.post("/v1/layout", query="a", items=["b"], isolation="causal")
    assert code_of(refused) == "invalid_isolation"
