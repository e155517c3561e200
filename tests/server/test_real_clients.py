"""The packages that people rerank with, against a running server: what they read is what the server said.

Run by hand, as `//tests/server:real_clients`: they are large, and change often. docs/rerank.md says which passed.
"""

import cohere
import httpx
import langchain_cohere
import litellm
import pytest
import tei_client
import voyageai
import voyageai.error
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from running_server import running_server

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "Bread is made of flour, water and yeast.",
    "Paris is the capital of France.",
    "The capital of Peru is Lima.",
    "Cats sleep for most of the day.",
]
KEY = "the key of a test"


@pytest.fixture(scope="module")
def url():
    with running_server("--warmup-tokens=", ISOPREFILL_API_KEY=KEY) as server:
        yield server.url


@pytest.fixture(scope="module")
def expected(url):
    """Indices and relevance, best first, as a plain request gets them."""
    answer = httpx.post(
        f"{url}/v1/rerank",
        json={"query": QUERY, "documents": DOCUMENTS},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=120,
    )
    answer.raise_for_status()
    pairs = [(one["index"], one["relevance_score"]) for one in answer.json()["results"]]
    assert pairs[0][0] == 1
    assert len({relevance for _, relevance in pairs}) == len(DOCUMENTS)
    return pairs


def same(got, expected) -> bool:
    """Whether a client has read these indices and relevances, in this order."""
    got = list(got)
    return [index for index, _ in got] == [index for index, _ in expected] and [
        relevance for _, relevance in got
    ] == pytest.approx([relevance for _, relevance in expected], rel=1e-6)


@pytest.mark.parametrize("client", [cohere.Client, cohere.ClientV2])
def test_cohere(url, expected, client):
    """Both of its versions, and its exceptions."""
    made = client(api_key=KEY, base_url=url)
    answer = made.rerank(model="default", query=QUERY, documents=DOCUMENTS, top_n=3)
    assert same(((one.index, one.relevance_score) for one in answer.results), expected[:3])
    with pytest.raises(cohere.BadRequestError):
        made.rerank(model="default", query=QUERY, documents=[])
    with pytest.raises(cohere.NotFoundError):
        made.rerank(model="rerank-v9", query=QUERY, documents=DOCUMENTS)
    with pytest.raises(cohere.UnauthorizedError):
        client(api_key="another", base_url=url).rerank(
            model="default", query=QUERY, documents=DOCUMENTS
        )


def test_langchain_cohere(url, expected):
    """As a step of LangChain's retrieval, which reorders documents."""
    reranker = langchain_cohere.CohereRerank(
        cohere_api_key=KEY, base_url=url, model="default", top_n=2
    )
    answer = reranker.rerank(DOCUMENTS, QUERY, top_n=None)
    assert same(((one["index"], one["relevance_score"]) for one in answer), expected)
    best = reranker.compress_documents(
        [langchain_cohere.rerank.Document(page_content=text) for text in DOCUMENTS], QUERY
    )
    assert [one.page_content for one in best] == [DOCUMENTS[index] for index, _ in expected[:2]]


def test_voyage(url, expected):
    """Its documents come back by index, and its errors are its own."""
    client = voyageai.Client(api_key=KEY, base_url=f"{url}/v1", max_retries=0)
    answer = client.rerank(QUERY, DOCUMENTS, model="default", top_k=3)
    assert same(((one.index, one.relevance_score) for one in answer.results), expected[:3])
    assert answer.results[0].document == DOCUMENTS[1]
    assert answer.total_tokens > 0
    with pytest.raises(voyageai.error.InvalidRequestError):
        client.rerank(QUERY, [], model="default")
    with pytest.raises(voyageai.error.AuthenticationError):
        voyageai.Client(api_key="another", base_url=f"{url}/v1", max_retries=0).rerank(
            QUERY, DOCUMENTS, model="default"
        )


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", ""),
        ("jina_ai", ""),
        ("hosted_vllm", ""),
        ("huggingface", ""),
        ("infinity", "/infinity"),
        ("voyage", "/voyage"),
    ],
)
def test_litellm(url, expected, provider, path):
    """Its providers send the requests of six services, and read six shapes of answers."""
    answer = litellm.rerank(
        model=f"{provider}/default",
        query=QUERY,
        documents=DOCUMENTS,
        api_base=url + path,
        api_key=KEY,
    )
    results = ((one["index"], one["relevance_score"]) for one in answer.results)
    assert same(results, expected)


def test_text_embeddings_inference(url, expected):
    """It asks for the kind of model before it reranks, and keeps logits as numbers of any size."""
    client = tei_client.HttpClient(url, headers={"authorization": f"Bearer {KEY}"}, timeout=120)
    assert client.health()
    info = client.info()
    assert info.server_model_id == "smollm2-135m"
    assert info.max_client_batch_size == 4096
    answer = client.rerank(QUERY, DOCUMENTS, return_text=True)
    assert same(((one.index, one.score) for one in answer.ranks), expected)
    assert answer.ranks[0].text == DOCUMENTS[1]
    raw = client.rerank(QUERY, DOCUMENTS, raw_scores=True, truncate=True)
    assert [one.index for one in raw.ranks] == [index for index, _ in expected]
    with pytest.raises(AssertionError, match="model required"):
        client.embed("a text")


def test_llama_index(url, expected):
    """Its postprocessor for Text Embeddings Inference gives each node its own score."""
    reranker = TextEmbeddingInference(base_url=url, top_n=3, auth_token=f"Bearer {KEY}")
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    best = reranker.postprocess_nodes(nodes, query_str=QUERY)
    found = ((DOCUMENTS.index(one.node.text), one.score) for one in best)
    assert same(found, expected[:3])
