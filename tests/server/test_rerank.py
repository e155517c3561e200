"""POST /v1/rerank: the order of documents against an oracle, how they are cut and tokenised, and their errors."""

import numpy as np
import pytest

from api_answers import code_of
from http_oracle import log_probabilities, tokens_of
from isoprefill.models.source import load_tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.preparer import Preparer
from isoprefill.server import routes_rerank
from isoprefill.server.api_models import RerankRequest
from isoprefill.server.errors import ApiError
from isoprefill.server.settings import RerankSettings
from unconnected_service import unconnected_service

pytest_plugins = ["server_fixtures"]


def test_rerank_orders_documents(server):
    """P(yes) / (P(yes) + P(no)) after the prompt, one document not seeing the others."""
    documents = ["first", {"text": "second one"}, "third"]
    answer = server.post("/v1/rerank", query="abc", documents=documents, top_n=2).json()
    before, after = RerankSettings().template.split("{document}")
    expected = []
    for text in ("first", "second one", "third"):
        prompt = before.replace("{query}", "abc") + text + after
        yes, no = log_probabilities(tokens_of(prompt))[-1, tokens_of("yn")]
        expected.append(1 / (1 + np.exp(no - yes)))
    order = np.argsort(np.negative(expected))[:2].tolist()
    assert [one["index"] for one in answer["results"]] == order
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(expected[one["index"]], abs=1e-3)
        assert one["document"]["text"] == ["first", "second one", "third"][one["index"]]
    bare = server.post("/v2/rerank", query="abc", documents=["a"], return_documents=False).json()
    assert set(bare["results"][0]) == {"index", "relevance_score"}


def test_rerank_cuts_documents_and_ignores_what_other_services_know(server):
    cut, whole = (
        server.post("/v1/rerank", query="abc", documents=[text], **extra).json()["results"][0]
        for text, extra in (
            ("abcdef", {"max_tokens_per_doc": 3, "truncate": "END", "rank_fields": ["text"]}),
            ("abc", {}),
        )
    )
    assert cut["relevance_score"] == whole["relevance_score"]


def rerank_request(template: str, document: str):
    """What a rerank request with SmolLM2 becomes, and its tokenizer."""
    rerank = RerankSettings(template=template, relevant="a", irrelevant="b")
    service = unconnected_service("smollm2-135m", rerank)
    body = RerankRequest(query="fruit", documents=[document])
    tokenizer = service.tokenizer
    preparer = Preparer(tokenizer, tokenizer.vocab_size, 8192, 16_384, 576)
    return routes_rerank._prepare(body, preparer, service.settings, ""), tokenizer


def test_a_document_is_tokenised_as_in_the_whole_prompt():
    """White space before it is its first token's: a cut in between would give tokens that no model was trained with."""
    template = RerankSettings().template
    request, tokenizer = rerank_request(template, "an apple")
    whole = tokenizer.encode(template.format(query="fruit", document="an apple"))
    assert [*request.query.tolist(), *request.items[0].tolist()] == whole


def test_a_document_is_not_cut_inside_a_character():
    """What is left of a character would become U+FFFD, which the document does not have."""
    tokenizer = load_tokenizer("smollm2-135m")
    text = "an 🂡 and a 🂱"
    tokens = tokenizer.encode(text)
    inside = [n for n in range(len(tokens)) if tokenizer.decode(tokens[:n]).endswith("\ufffd")]
    assert len(inside) >= 2
    cuts = [routes_rerank._beginning(tokenizer, text, n) for n in range(1, len(tokens) + 1)]
    assert all(text.startswith(cut) for cut in cuts)
    assert cuts[-1] == text
    assert "🂡" in cuts[-2], "only what the cut goes through is lost"


def test_a_document_that_is_short_enough_is_left_as_it_is():
    """What the vocabulary cannot spell is not the cut's business."""
    tokenizer = load_tokenizer("smollm2-135m")
    assert routes_rerank._beginning(tokenizer, "a\x04\ufffd", 9) == "a\x04\ufffd"


def test_a_document_without_tokens_is_called_a_document():
    with pytest.raises(RequestError) as refused:
        rerank_request("{query}:{document}", "\x04")
    answer = ApiError.of(refused.value, routes_rerank.ROUTE.items)
    assert (answer.code, answer.param) == ("empty_document", "documents[0]")
    assert answer.message.startswith("documents[0] must")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "a"}, "missing_documents"),
        ({"query": "a", "documents": []}, "empty_documents"),
        ({"query": "a", "documents": ["a", ""]}, "empty_document"),
        ({"query": "a", "documents": [{"text": ""}]}, "empty_document"),
        ({"query": "a", "documents": [5]}, "invalid_documents_type"),
        ({"query": "a", "documents": [{"title": "a"}]}, "invalid_documents_type"),
        ({"query": "", "documents": ["a"]}, "empty_query"),
        ({"query": [1], "documents": ["a"]}, "invalid_query_type"),
        ({"query": "a", "documents": ["a"], "top_n": "all"}, "invalid_top_n"),
        ({"query": "a", "documents": ["a"], "model": "other"}, "model_not_found"),
        ({"query": "a", "documents": ["a" * 600]}, "context_length_exceeded"),
    ],
)
def test_bad_rerank_body(server, body, code):
    assert code_of(server.post("/v1/rerank", **body)) == code
