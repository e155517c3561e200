"""Routes beside scoring and reranking: generative scoring, tokens of texts, and the names of the model."""

import httpx
import numpy as np
import pytest

import small_models
from api_answers import code_of
from http_oracle import MODEL, oracle_labels, tokens_of
from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_models.save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))


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
