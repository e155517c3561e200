"""`isoprefill.Reranker` in this process: the server's scores, transformers' probabilities, CrossEncoder's methods.

If one of these fails, moving between the server and a program of one's own changes scores or order.
"""

import numpy as np
import pytest

import isoprefill
from http_oracle import MODEL, log_probabilities, tokens_of
from huggingface_directory import save_directory
from in_process_service import Client, in_process_service
from isoprefill.rerank.settings import RerankSettings
from server_fixtures import RERANK_TEMPLATE

DOCUMENTS = ["first", "second one", "", "third", "x" * 40]
ASKED = {"template": RERANK_TEMPLATE, "yes": "y", "no": "n"}
SETTINGS = RerankSettings(template=RERANK_TEMPLATE, yes_text="y", no_text="n")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny")
    return isoprefill.ScoringEngine.from_pretrained(model)


def served(engine, **rerank):
    """Relevances from the routes of a server with the same settings."""
    settings = {"rerank": RerankSettings(**rerank)} if rerank else {}
    client = Client(in_process_service(engine, str(engine.model.path), **settings))

    def relevances(query, documents, **options):
        body = {"query": query, "documents": documents, **options}
        results = client.post("/v1/rerank", **body).json()["results"]
        return [one["relevance_score"] for one in sorted(results, key=lambda one: one["index"])]

    return relevances


@pytest.mark.parametrize("asked", [{}, ASKED])
def test_scores_are_those_of_the_servers_route(engine, asked):
    """To the last bit, for the default preset and a template of one's own."""
    flags = {"yes": "yes_text", "no": "no_text"}
    from_server = served(engine, **{flags.get(name, name): text for name, text in asked.items()})
    reranker = isoprefill.Reranker(engine, **asked)
    pairs = [(query, text) for text in DOCUMENTS for query in ("abc", "a fruit")]
    scores = reranker.predict(pairs)
    for query, first in (("abc", 0), ("a fruit", 1)):
        assert scores[first::2].tolist() == from_server(query, DOCUMENTS)
    raw = reranker.predict([("abc", text) for text in DOCUMENTS if text], raw_scores=True)
    texts = [text for text in DOCUMENTS if text]
    assert raw.tolist() == from_server("abc", texts, raw_scores=True)


def test_scores_are_those_of_transformers(engine):
    """P(yes) / (P(yes) + P(no)) after each prompt by itself."""
    before, after = RERANK_TEMPLATE.replace("{{ query }}", "abc").split("{{ document }}")
    expected = []
    for text in ("first", "second one"):
        yes, no = log_probabilities(tokens_of(before + text + after))[-1, tokens_of("yn")]
        expected.append(1 / (1 + np.exp(no - yes)))
    scores = isoprefill.Reranker(engine, **ASKED).predict([("abc", "first"), ("abc", "second one")])
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_rank_is_the_order_of_predict(engine):
    """The form is that of CrossEncoder.rank; an empty document comes last."""
    reranker = isoprefill.Reranker(engine, **ASKED)
    scores = reranker.predict([("abc", text) for text in DOCUMENTS])
    order = np.argsort(-scores, kind="stable").tolist()
    ranked = reranker.rank("abc", DOCUMENTS, return_documents=True)
    assert ranked == [
        {"corpus_id": index, "score": scores[index], "text": DOCUMENTS[index]} for index in order
    ]
    assert order[-1] == 2
    assert reranker.rank("abc", DOCUMENTS, top_k=2) == [
        {"corpus_id": index, "score": scores[index]} for index in order[:2]
    ]


def test_pairs_do_not_depend_on_each_other(engine):
    """Not a bit of a pair's score changes with the pairs around it; one pair gives a number."""
    reranker = isoprefill.Reranker(engine, **ASKED)
    alone = reranker.predict(("abc", "first"))
    assert isinstance(alone, float)
    for others in ([("abc", "x" * 90)], [("other", "q"), ("abc", "")], [("abc", "first")] * 3):
        assert reranker.predict([*others, ("abc", "first")])[-1] == alone
    assert reranker.predict([]).shape == (0,)


def test_many_queries_are_scored_in_batches_of_a_bounded_size(engine, monkeypatch):
    """Else a long list of pairs is held in memory as tokens; the cuts change nothing."""
    reranker = isoprefill.Reranker(engine)
    pairs = [(f"query {number % 7}", f"text {number}") for number in range(40)]
    whole = reranker.predict(pairs)
    sizes = []
    score_batch = engine.score_batch
    monkeypatch.setattr(
        engine, "score_batch", lambda requests: sizes.append(len(requests)) or score_batch(requests)
    )
    monkeypatch.setattr("isoprefill.rerank.reranker.TOKENS_AT_ONCE", 500)
    np.testing.assert_array_equal(reranker.predict(pairs), whole)
    assert sum(sizes) == 7
    assert len(sizes) > 2


def test_long_documents_are_cut_on_request_only(engine):
    """Else a score would be about a part of the document without a word about it."""
    document = "ab" * 400
    with pytest.raises(isoprefill.RequestError, match=r"pairs\[0\]"):
        isoprefill.Reranker(engine, **ASKED).predict(("abc", document))
    cut = isoprefill.Reranker(engine, **ASKED, truncate=True).predict(("abc", document))
    expected = served(engine, template=RERANK_TEMPLATE, yes_text="y", no_text="n")
    assert [cut] == expected("abc", [document], truncation=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.predict([("a", "b"), ("a",)]), r"pairs\[1\]"),
        (lambda one: one.predict([("a", "b"), ("", "x")]), "query"),
        (lambda one: one.predict([("a", "b"), ("b", "\ud800")]), r"pairs\[1\]"),
        (lambda one: one.rank("a", []), "documents"),
        (lambda one: one.rank("a", ["b", "c" * 900]), r"documents\[1\]"),
        (lambda one: one.rank("a", ["b"], top_k=0), "top_k must be at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(engine, call, message):
    with pytest.raises(ValueError, match=message):
        call(isoprefill.Reranker(engine, **ASKED))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "none"}, "none"),
        ({"preset": "chat"}, "no chat template"),
        ({"template": "{{ query }}"}, "document"),
        ({"threads": 2}, "threads"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_at_once(engine, options, message):
    with pytest.raises(ValueError, match=message):
        isoprefill.Reranker(engine, **options)
