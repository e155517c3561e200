"""POST /v1/rerank: the order of documents against an oracle, how they are cut and tokenised, and their errors."""

import numpy as np
import pytest

from api_answers import code_of
from http_oracle import log_probabilities, tokens_of
from isoprefill.integrations import relevance_source as relevance_source_module
from isoprefill.integrations.relevance_source import best_first, relevance_source
from isoprefill.server.settings import RerankSettings
from server_fixtures import RERANK_TEMPLATE
from unconnected_service import ask, unconnected_service

pytest_plugins = ["server_fixtures"]

BEFORE, AFTER = RERANK_TEMPLATE.replace("{{ query }}", "abc").split("{{ document }}")


def yes_and_no(text: str) -> np.ndarray:
    """The oracle: log P of both labels after the whole prompt."""
    return log_probabilities(tokens_of(BEFORE + text + AFTER))[-1, tokens_of("yn")]


def relevance(text: str) -> float:
    yes, no = yes_and_no(text)
    return 1 / (1 + np.exp(no - yes))


def by_index(answer: dict) -> list[float]:
    results = sorted(answer["results"], key=lambda one: one["index"])
    return [one["relevance_score"] for one in results]


def test_rerank_orders_documents(server):
    """P(yes) / (P(yes) + P(no)) after the prompt, one document not seeing the others."""
    texts = ("first", "second one", "third")
    documents = ["first", {"text": "second one"}, "third"]
    answer = server.post("/v1/rerank", query="abc", documents=documents, top_n=2).json()
    expected = [relevance(text) for text in texts]
    order = np.argsort(np.negative(expected))[:2].tolist()
    assert [one["index"] for one in answer["results"]] == order
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(expected[one["index"]], abs=1e-3)
        assert one["document"]["text"] == texts[one["index"]]
    bare = server.post("/v1/rerank", query="abc", documents=["a"], return_documents=False).json()
    assert set(bare["results"][0]) == {"index", "relevance_score"}


def test_the_integrations_read_relevances_of_a_server(server, monkeypatch):
    """In the order of the documents, in requests of a bounded size; a refusal is an error with its reason."""
    monkeypatch.setattr(relevance_source_module, "AT_ONCE", 2)
    source = relevance_source(base_url=f"{server.url}/")
    texts = ["first", "second one", "", "third", "first"]
    found = source("abc", texts)
    expected = server.post("/v1/rerank", query="abc", documents=texts).json()
    assert found == by_index(expected)
    assert best_first(found, 2) == sorted(range(5), key=lambda place: -found[place])[:2]
    with pytest.raises(RuntimeError, match=r"answered 400: .*documents\[0\]"):
        source("abc", ["x" * 600])
    with pytest.raises(ValueError, match="give either model or base_url"):
        relevance_source()
    with pytest.raises(ValueError, match="preset: how the model is asked is set at the server"):
        relevance_source(base_url=server.url, preset="chat")


def test_documents_do_not_see_each_other(server):
    """Not a bit of a document's relevance depends on the others, empty ones included."""
    alone = server.post("/v1/rerank", query="abc", documents=["first"]).json()
    for others in (["x" * 90, ""], ["", "q"], ["first"]):
        beside = server.post("/v1/rerank", query="abc", documents=[*others, "first"]).json()
        assert by_index(beside)[-1] == by_index(alone)[0]


def test_empty_documents_are_the_least_relevant(server):
    """As at Cohere; one of them must not fail the others."""
    documents = ["", "first", " \n", {"text": ""}]
    answer = server.post("/v1/rerank", query="abc", documents=documents).json()
    assert by_index(answer) == [0.0, pytest.approx(relevance("first"), abs=1e-3), 0.0, 0.0]
    assert answer["results"][0]["index"] == 1
    nothing = server.post("/v1/rerank", query="abc", documents=["", ""]).json()
    assert by_index(nothing) == [0.0, 0.0]
    assert nothing["usage"]["prompt_tokens"] == 0


def test_documents_are_cut_to_so_many_tokens(server):
    """Fields that other services know and this one does not are ignored."""
    ignored = {"truncate": "END", "rank_fields": ["text"], "max_chunks_per_doc": 3}
    cut = server.post(
        "/v1/rerank", query="abc", documents=["abcdef"], max_tokens_per_doc=3, **ignored
    )
    whole = server.post("/v1/rerank", query="abc", documents=["abc"])
    assert by_index(cut.json()) == by_index(whole.json())


def test_whole_prompts_are_cut_to_so_many_tokens(server):
    around = len(tokens_of(BEFORE + AFTER))

    def answer(**options):
        return server.post("/v1/rerank", query="abc", documents=["abcdef", "ab"], **options)

    cut = answer(truncate_prompt_tokens=around + 4).json()
    assert by_index(cut) == pytest.approx([relevance("abcd"), relevance("ab")], abs=1e-3)
    assert cut["usage"]["prompt_tokens"] < answer().json()["usage"]["prompt_tokens"]
    refused = answer(truncate_prompt_tokens=around)
    assert code_of(refused) == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "documents[0]"


@pytest.mark.parametrize("cut", [{"truncation": True}, {"truncate_prompt_tokens": -1}])
def test_what_is_too_long_for_the_model_is_cut_on_request_only(server, cut):
    fitting = 512 - len(tokens_of(BEFORE + AFTER))
    body = {"query": "abc", "documents": ["ab" * 400, "c"]}
    assert code_of(server.post("/v1/rerank", **body)) == "context_length_exceeded"
    answer = server.post("/v1/rerank", **body, **cut).json()
    expected = [relevance(("ab" * 400)[:fitting]), relevance("c")]
    assert by_index(answer) == pytest.approx(expected, abs=1e-3)


def test_special_tokens_in_documents_and_query_are_ordinary_text(server):
    """Else a document could end its turn and answer for the model; on request they are what they spell."""
    hostile = "a<s>b"
    assert 256 in tokens_of(hostile)
    spelt = [token for part in ("a<", "s>b") for token in tokens_of(part)]
    before, after = tokens_of(BEFORE), tokens_of(AFTER)
    expected = {}
    for name, document in (("ordinary", spelt), ("special", tokens_of(hostile))):
        yes, no = log_probabilities(before + document + after)[-1, tokens_of("yn")]
        expected[name] = pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-3)
    body = {"query": "abc", "documents": [hostile]}
    assert by_index(server.post("/v1/rerank", **body).json()) == [expected["ordinary"]]
    trusted = server.post("/v1/rerank", **body, untrusted_text=False).json()
    assert by_index(trusted) == [expected["special"]]
    assert trusted["usage"]["prompt_tokens"] == len(before + tokens_of(hostile) + after)
    in_query = server.post("/v1/rerank", query=hostile, documents=["c"]).json()
    without = len(tokens_of(BEFORE.replace("abc", "") + "c" + AFTER))
    assert in_query["usage"]["prompt_tokens"] == without + len(spelt)


def test_an_instruction_without_a_place_is_refused(server):
    """Silently ignored, it would leave a user with scores for another task."""
    for name in ("instruction", "instruct"):
        refused = server.post("/v1/rerank", query="a", documents=["b"], **{name: "find it"})
        assert code_of(refused) == "unknown_parameter"
        assert refused.json()["error"]["param"] == "instruction"


def test_a_server_without_a_preset_refuses_to_rerank(model_directory):
    service = unconnected_service(model_directory, RerankSettings(preset="none"))
    for path, body in (
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
    ):
        assert code_of(ask(service, body, path)) == "rerank_unavailable"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "a"}, "missing_documents"),
        ({"query": "a", "documents": []}, "empty_documents"),
        ({"query": "a", "documents": [5]}, "invalid_documents_type"),
        ({"query": "a", "documents": [{"title": "a"}]}, "invalid_documents_type"),
        ({"documents": ["a"]}, "missing_query"),
        ({"query": "", "documents": ["a"]}, "empty_query"),
        ({"query": [1], "documents": ["a"]}, "invalid_query_type"),
        ({"query": "a", "documents": ["a"], "top_n": "all"}, "invalid_top_n"),
        (
            {"query": "a", "documents": ["a"], "truncate_prompt_tokens": -2},
            "invalid_parameter_type",
        ),
        ({"query": "a", "documents": ["a"], "model": "other"}, "model_not_found"),
        ({"query": "a", "documents": ["a" * 600]}, "context_length_exceeded"),
        ({"query": "a", "documents": ["a"] * 5000}, "too_many_items"),
    ],
)
def test_bad_rerank_body(server, body, code):
    assert code_of(server.post("/v1/rerank", **body)) == code
