"""The clients that people use: the openai package, a script that looks for isolation, and the embedded model."""

import httpx
import numpy as np
import openai
import pytest

from api_answers import likelihoods
from http_oracle import VOCAB
from isoprefill.models.sources.source import load_tokenizer
from running_server import running_server

pytest_plugins = ["server_fixtures"]


@pytest.fixture(scope="module")
def smollm2():
    with running_server("--warmup-tokens=") as one:
        yield one


def test_openai_client(server, strict_server):
    """The official client: its answers, and its exceptions for our errors."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    body = {"model": "default", "query": "abc", "items": ["x", "yz"], "label_token_ids": [1, 2]}
    answer = client.post("/score", body=body, cast_to=object)
    assert answer["scores"] == server.score(**body)["scores"]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.BadRequestError) as bad:
        client.post("/score", body=body | {"items": []}, cast_to=object)
    assert (bad.value.code, bad.value.param, bad.value.type) == (
        "empty_items",
        "items",
        "invalid_value_error",
    )
    with pytest.raises(openai.UnprocessableEntityError):
        client.post("/score", body=body | {"label_token_ids": [VOCAB]}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.post("/score", body=body | {"model": "gpt-9"}, cast_to=object)
    stranger = openai.OpenAI(base_url=f"{strict_server.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.post("/score", body=body, cast_to=object)


def test_a_client_that_looks_for_isolation_finds_it(smollm2):
    """The requests of a script that people run against such servers, and its three verdicts.

    It sends no labels, and reads data["scores"][i]["score"] as the item's log-probability.
    """

    def score_items(query: str, items: list[str]) -> dict[str, float]:
        response = httpx.post(
            f"{smollm2.url}/v1/score",
            json={"model": "default", "query": query, "items": items, "apply_softmax": False},
            timeout=60,
        )
        response.raise_for_status()
        data = response.json()
        return {item: data["scores"][index]["score"] for index, item in enumerate(items)}

    query = "What is the capital of France?"
    forwards = score_items(query, ["Paris", "London", "Berlin"])
    backwards = score_items(query, ["Berlin", "London", "Paris"])
    assert max(abs(forwards[item] - backwards[item]) for item in forwards) < 1e-3
    neutral = score_items(query, ["Hello world", "Paris"])["Paris"]
    leading = score_items(query, ["Paris is a beautiful city", "Paris"])["Paris"]
    assert abs(neutral - leading) < 1e-3
    item = "The food was excellent and service was great"
    before = "Terrible food, awful service, never coming back"
    scores = [
        score_items("Rate this restaurant review", [before] * number + [item])[item]
        for number in (0, 1, 5, 10)
    ]
    assert np.ptp(scores) < 1e-3


def test_smollm2_over_http(smollm2):
    """The embedded model, by the numbers that its own library gives."""
    answer = smollm2.score(
        query="The capital of France is", items=[" Paris", " London", " Berlin", " banana"]
    )
    expected = [-0.2581, -4.3844, -6.9207, -17.2379]
    np.testing.assert_allclose(likelihoods(answer), expected, atol=1e-3)
    assert answer["model"] == "smollm2-135m"
    yes = load_tokenizer("smollm2-135m").encode(" yes")
    by_id = smollm2.score(query="Is it a fruit?", items=[" An apple."], label_token_ids=yes)
    by_text = smollm2.score(query="Is it a fruit?", items=[" An apple."], labels=[" yes"])
    assert by_id["scores"] == by_text["scores"]
    rerank = smollm2.post("/v1/rerank", query="a fruit", documents=["a car", "an apple"]).json()
    assert all(0 < one["relevance_score"] < 1 for one in rerank["results"])
