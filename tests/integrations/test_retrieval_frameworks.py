"""LangChain, LlamaIndex, Haystack and PyTerrier themselves with our rerankers, in this process and over HTTP.

Needs their packages (requirements/integrations.lock). If one of these fails, a pipeline orders documents otherwise than
the server does, or the framework has changed what it wants of a component.
"""

import os

import pytest

import isoprefill
from http_oracle import MODEL
from huggingface_directory import save_directory
from server_fixtures import RERANK_TEMPLATE

pytest_plugins = ["server_fixtures"]

TEXTS = ["first", "second one", "third", "x" * 40]
OPTIONS = {"template": RERANK_TEMPLATE, "yes": "y", "no": "n"}
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_directory(MODEL, tmp_path_factory.mktemp("own") / "tiny"))


@pytest.fixture(params=["in this process", "over HTTP"])
def source(request, model):
    if request.param == "over HTTP":
        return {"base_url": request.getfixturevalue("server").url}
    return {"model": model, "options": OPTIONS}


@pytest.fixture(scope="module")
def expected(model):
    """Texts and their relevances, best first."""
    ranked = isoprefill.Reranker(model, **OPTIONS).rank("abc", TEXTS, return_documents=True)
    return [(one["text"], pytest.approx(one["score"], abs=1e-6)) for one in ranked]


def test_langchain(source, expected):
    documents = pytest.importorskip("langchain_core.documents")
    from isoprefill.integrations.langchain import IsoprefillRerank

    given = [documents.Document(page_content=text, metadata={"at": text}) for text in TEXTS]
    compressor = IsoprefillRerank(**source, top_n=3)
    found = compressor.compress_documents(given, "abc")
    assert [(one.page_content, one.metadata["relevance_score"]) for one in found] == expected[:3]
    assert all(one.metadata["at"] == one.page_content for one in found)
    assert "relevance_score" not in given[0].metadata
    assert compressor.compress_documents([], "abc") == []


def test_llama_index(source, expected):
    schema = pytest.importorskip("llama_index.core.schema")
    from isoprefill.integrations.llama_index import IsoprefillRerank

    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.5) for text in TEXTS]
    found = IsoprefillRerank(**source, top_n=None).postprocess_nodes(nodes, query_str="abc")
    assert [(one.node.text, one.score) for one in found] == expected
    assert nodes[0].score == 0.5
    with pytest.raises(ValueError, match="query_bundle is missing"):
        IsoprefillRerank(**source).postprocess_nodes(nodes)


def test_haystack(source, expected):
    haystack = pytest.importorskip("haystack")
    from isoprefill.integrations.haystack import IsoprefillRanker

    pipeline = haystack.Pipeline()
    pipeline.add_component("ranker", IsoprefillRanker(**source, top_k=2))
    pipeline = haystack.Pipeline.loads(  # as from a file, whose modules Haystack wants named
        pipeline.dumps(), allowed_modules=["isoprefill.integrations.haystack"]
    )
    given = [haystack.Document(content=text) for text in TEXTS]
    found = pipeline.run({"ranker": {"query": "abc", "documents": given}})["ranker"]["documents"]
    assert [(one.content, one.score) for one in found] == expected[:2]
    more = pipeline.run({"ranker": {"query": "abc", "documents": given, "top_k": 3}})
    assert len(more["ranker"]["documents"]) == 3


def test_pyterrier(source, expected):
    pt = pytest.importorskip("pyterrier")
    import pandas as pd

    from isoprefill.integrations.pyterrier import IsoprefillReranker

    class Retriever(pt.Transformer):
        """Finds the same for two queries, the best last, and for one of them what has no text."""

        def transform(self, inp):
            rows = [
                {"qid": qid, "query": "abc", "docno": text, "body": text, "score": float(place)}
                for place, (text, _) in enumerate(expected)
                for qid in ("q2", "q1")
            ]
            rows.append({"qid": "q1", "query": "abc", "docno": "empty", "body": None, "score": 9.0})
            return pt.model.add_ranks(pd.DataFrame(rows))

    found = (Retriever() >> IsoprefillReranker(**source, text_field="body")).search("abc")
    found = found.sort_values(["qid", "rank"])
    one, two = (found[found["qid"] == qid] for qid in ("q1", "q2"))
    assert list(zip(two["docno"], two["score"], strict=True)) == expected
    assert two["rank"].tolist() == [0, 1, 2, 3]
    assert [name for name in one["docno"] if name != "empty"] == [text for text, _ in expected]
    assert one["score"].is_monotonic_decreasing
    assert len(one) == 5


def test_pyterrier_knows_what_it_takes_without_a_model(tmp_path):
    """PyTerrier asks by empty tables before a pipeline runs, which must not load anything."""
    pt = pytest.importorskip("pyterrier")
    from isoprefill.integrations.pyterrier import IsoprefillReranker

    reranker = IsoprefillReranker(model=str(tmp_path / "nowhere"))
    (taken,) = pt.inspect.transformer_inputs(reranker)
    assert sorted(taken) == ["docno", "qid", "query", "text"]
    given = pt.inspect.transformer_outputs(reranker, [*taken, "url"])
    assert sorted(given) == ["docno", "qid", "query", "rank", "score", "text", "url"]
    with pytest.raises(KeyError, match="text"):
        reranker([{"qid": "1", "query": "a", "docno": "b"}])
    with pytest.raises(ValueError, match="either model or base_url"):
        IsoprefillReranker()
