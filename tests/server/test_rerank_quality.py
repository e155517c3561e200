"""What the default model's reranking is worth: it was not trained to, and still has to find the one that fits."""

import json
import pathlib

from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine

LISTS = pathlib.Path(__file__).parent.parent / "support" / "easy_lists.json"


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
