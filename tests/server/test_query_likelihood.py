"""Reranking by the query's likelihood: against an oracle, what it is worth, and no document sees another."""

import json
import pathlib

import numpy as np
import pytest

from http_oracle import MODEL, log_probabilities, tokens_of
from huggingface_directory import save_directory
from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine

LISTS = pathlib.Path(__file__).parent.parent / "support" / "easy_lists.json"
DOCUMENTS = ["first", "second one", "third", "x" * 40]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    model = str(save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))
    return Client(in_process_service(ScoringEngine.from_pretrained(model), model))


def relevances(client: Client, documents: list[str], **options: object) -> list[float]:
    body = {"query": "a fruit", "documents": documents, **options}
    results = client.post("/v1/rerank", **body).json()["results"]
    return [one["relevance_score"] for one in sorted(results, key=lambda one: one["index"])]


def test_relevance_is_the_mean_log_probability_of_the_query_after_the_document(client):
    """Each prompt alone in transformers; the document's own tokens do not count."""
    query = tokens_of(" a fruit")
    expected = []
    for document in DOCUMENTS:
        before = tokens_of(f"Document: {document}\nQuery:")
        after = log_probabilities(before + query)[len(before) - 1 :]
        expected.append(np.mean([after[place, token] for place, token in enumerate(query)]))
    np.testing.assert_allclose(relevances(client, DOCUMENTS), np.exp(expected), rtol=1e-3)
    raw = relevances(client, DOCUMENTS, raw_scores=True)
    np.testing.assert_allclose(raw, expected, atol=1e-3)


def test_no_document_sees_another(client):
    """Not a bit changes with the others' values, lengths, number and order."""
    alone = relevances(client, DOCUMENTS[:1])[0]
    for others in (["q"], ["y" * 90, ""], DOCUMENTS, [chr(97 + n) * n for n in range(1, 30)]):
        assert relevances(client, [*others, DOCUMENTS[0]])[-1] == alone
        assert relevances(client, [DOCUMENTS[0], *others])[0] == alone


def test_one_prefill_has_the_documents_once_and_the_query_after_each(client):
    """Tokens of the beginning, and of each document with what follows it: nothing is computed for every pair."""
    answer = client.post("/v1/rerank", query="a fruit", documents=DOCUMENTS).json()
    parts = ["Document:", *(f" {document}\nQuery: a fruit" for document in DOCUMENTS)]
    assert answer["usage"]["prompt_tokens"] == sum(len(tokens_of(part)) for part in parts)


def test_the_default_model_finds_the_relevant_document_of_easy_lists():
    """Five documents, one of which answers the query; chance is 3 of 15, a prompt that asks for Yes or No gets 4."""
    client = Client(
        in_process_service(ScoringEngine.from_pretrained("smollm2-135m"), "smollm2-135m")
    )
    found = 0
    lists = json.loads(LISTS.read_text())
    for number, (query, relevant, *others) in enumerate(lists):
        documents = [*others[: number % 5], relevant, *others[number % 5 :]]
        results = client.post("/v1/rerank", query=query, documents=documents).json()["results"]
        found += documents[results[0]["index"]] == relevant
    assert len(lists) == 15
    assert found >= 14
