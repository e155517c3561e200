"""Rerank and pair scores in the shapes of other services: bodies told apart, answers and errors as their clients read.

The scores are judged in test_rerank.py; here all shapes must carry the same ones.
"""

import httpx
import numpy as np
import pytest

from http_oracle import MODEL
from huggingface_directory import save_directory
from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine
from isoprefill.server.settings import RerankSettings
from server_fixtures import RERANK_TEMPLATE

DOCUMENTS = ["first", "", "second one", "third"]


RERANK = RerankSettings(template=RERANK_TEMPLATE, yes_text="y", no_text="n")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def engine(model: str) -> ScoringEngine:
    return ScoringEngine.from_pretrained(model)


@pytest.fixture(scope="module")
def client(engine: ScoringEngine, model: str) -> Client:
    return Client(in_process_service(engine, model, rerank=RERANK))


@pytest.fixture(scope="module")
def expected(client: Client) -> dict[int, float]:
    """The documents' relevances, most relevant first."""
    results = client.post("/v1/rerank", query="abc", documents=DOCUMENTS).json()["results"]
    assert results[-1]["index"] == 1
    return {one["index"]: one["relevance_score"] for one in results}


def logits(expected: dict[int, float]) -> list[float]:
    scores = np.asarray(list(expected.values())[:-1])
    return np.log(scores / (1 - scores)).tolist()


def ranking(results: list[dict], score: str = "relevance_score") -> list[tuple[int, float]]:
    return [(one["index"], one[score]) for one in results]


def test_cohere(client, expected):
    """v1 may return documents, v2 never does; both read id, results and meta."""
    first = client.post("/v1/rerank", model="default", query="abc", documents=DOCUMENTS, top_n=2)
    assert ranking(first.json()["results"]) == list(expected.items())[:2]
    assert first.json()["results"][0]["document"] == {
        "text": DOCUMENTS[first.json()["results"][0]["index"]]
    }
    second = client.post("/v2/rerank", model="default", query="abc", documents=DOCUMENTS)
    assert ranking(second.json()["results"]) == list(expected.items())
    assert set(second.json()["results"][0]) == {"index", "relevance_score"}
    assert second.json()["meta"]["api_version"] == {"version": "2"}
    assert second.json()["id"]


def test_jina_and_llama_cpp(client, expected):
    for path in ("/v1/rerank", "/rerank"):
        body = {"query": "abc", "documents": [{"text": text} for text in DOCUMENTS], "top_n": 9}
        answer = client.post(path, **body, truncation=False, return_documents=False).json()
        assert ranking(answer["results"]) == list(expected.items())
        assert answer["usage"]["total_tokens"] > 0
        assert answer["model"] == "tiny"


def test_infinity(client, expected):
    answer = client.post("/rerank", query="abc", documents=DOCUMENTS, raw_scores=False).json()
    assert ranking(answer["results"]) == list(expected.items())
    raw = client.post(
        "/rerank", query="abc", documents=DOCUMENTS, raw_scores=True, return_documents=True
    ).json()
    assert [one["relevance_score"] for one in raw["results"][:-1]] == pytest.approx(
        logits(expected)
    )
    assert [one["document"] for one in raw["results"]] == [DOCUMENTS[index] for index in expected]
    own = client.post("/infinity/rerank", query="abc", documents=DOCUMENTS, return_documents=True)
    assert own.json()["results"][0]["document"] == raw["results"][0]["document"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_raw_scores_change_only_the_number(client, path):
    """A field that is set to its default, or asks for another number, took the documents out of the answer."""
    asked = {"query": "abc", "documents": DOCUMENTS}
    plain, same, raw = (
        client.post(path, **asked, **more).json()["results"]
        for more in ({}, {"raw_scores": False}, {"raw_scores": True})
    )
    assert same == plain
    assert [one | {"relevance_score": 0} for one in raw] == [
        one | {"relevance_score": 0} for one in plain
    ]
    assert raw[0]["relevance_score"] != plain[0]["relevance_score"]
    assert raw[0]["document"] == {"text": DOCUMENTS[raw[0]["index"]]}


def test_voyage(client, expected):
    """It cuts what is too long unless it is told not to, and top_k may be null."""
    body = {"query": "abc", "documents": DOCUMENTS, "model": "default", "top_k": None}
    answer = client.post("/v1/rerank", **body, return_documents=True).json()
    assert set(answer) == {"object", "data", "model", "usage"}
    assert ranking(answer["data"]) == list(expected.items())
    assert answer["data"][0]["document"] == DOCUMENTS[answer["data"][0]["index"]]
    del body["top_k"]  # as litellm does, which can be given a path of its own
    own = client.post("/voyage/v1/rerank", **body, return_documents=True).json()
    assert own["data"] == answer["data"]
    long = body | {"documents": ["a" * 600], "top_k": 1}
    assert client.post("/v1/rerank", **long).status_code == 200
    refused = client.post("/v1/rerank", **long, truncation=False)
    assert refused.status_code == 400
    assert refused.json()["detail"] == refused.json()["error"]["message"]


def test_a_missing_key_is_said_in_the_words_of_the_route(engine, model):
    """A client that finds no message where it looks reports that the server is broken."""
    strict = Client(in_process_service(engine, model, rerank=RERANK, api_key="secret"))
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/voyage/v1/rerank"):
        refused = strict.post(path, query="abc", documents=DOCUMENTS)
        assert refused.status_code == 401
        said = refused.json()
        assert said["message"] == said["detail"] == said["error"]["message"]
    assert set(strict.post("/v1/score", query="abc", items=["x"]).json()) == {"error"}


def test_text_embeddings_inference(client, expected):
    answer = client.post("/rerank", query="abc", texts=DOCUMENTS).json()
    assert ranking(answer, "score") == list(expected.items())
    assert set(answer[0]) == {"index", "score"}
    raw = client.post(
        "/rerank", query="abc", texts=DOCUMENTS, raw_scores=True, return_text=True
    ).json()
    assert [one["score"] for one in raw[:-1]] == pytest.approx(logits(expected))
    assert raw[-1]["score"] < -1e38
    assert [one["text"] for one in raw] == [DOCUMENTS[index] for index in expected]
    long = {"query": "abc", "texts": ["ab" * 300 + "c"]}
    refused = client.post("/rerank", **long)
    assert refused.status_code == 400
    assert set(refused.json()) == {"error", "error_type"}
    assert "texts[0]" in refused.json()["error"]
    assert refused.json()["error_type"] == "Validation"
    cut = {
        side: client.post("/rerank", **long, truncate=True, truncation_direction=side).json()[0][
            "score"
        ]
        for side in ("Left", "Right")
    }
    assert cut["Left"] != cut["Right"]


def test_what_text_embeddings_inference_says_of_itself(client, engine, model):
    """Its clients ask what is served first, and rerank only where they are told that it is a reranker."""
    info = client.get("/info").json()
    assert list(info["model_type"]) == ["reranker"]
    assert info["model_type"]["reranker"]["id2label"] == {"0": "relevance"}
    assert (info["model_id"], info["model_dtype"]) == ("tiny", "float32")
    assert (info["max_input_length"], info["max_client_batch_size"]) == (512, 4096)
    silent = Client(in_process_service(engine, model, rerank=RerankSettings(preset="none")))
    answer = silent.get("/info")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "rerank_unavailable"


def test_sglang(client, expected):
    answer = client.post("/sglang/v1/rerank", query="abc", documents=DOCUMENTS, top_n=3).json()
    assert ranking(answer, "score") == list(expected.items())[:3]
    assert [one["document"] for one in answer] == [DOCUMENTS[one["index"]] for one in answer]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")]
)
def test_vllm_pairs(client, expected, path, names):
    """One query for all documents, or one for each; the scores come in the order of the pairs."""
    first, second = names
    answer = client.post(path, **{first: "abc", second: DOCUMENTS}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2, 3]
    assert {one["index"]: one["score"] for one in answer["data"]} == expected
    assert {one["object"] for one in answer["data"]} == {"score"}
    other = client.post(path, **{first: ["q"], second: "third"}).json()["data"][0]["score"]
    pairs = {first: ["abc", "q", "abc"], second: ["third", "third", "first"]}
    scores = [one["score"] for one in client.post(path, **pairs).json()["data"]]
    assert scores == [expected[3], other, expected[0]]
    assert other != expected[3]


def test_vllm_pairs_that_do_not_go_together(client):
    for body, param in (
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"documents": ["a"]}, "queries"),
        ({"queries": [], "documents": ["a"]}, "queries"),
        ({"data_1": "a", "data_2": 5}, "data_2"),
    ):
        refused = client.post("/score", **body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == param


def test_errors_name_documents_by_their_places_in_the_body(client):
    """Not by those among the documents that are scored, or that have the same query."""
    refused = client.post("/v1/rerank", query="abc", documents=["", "a", "b" * 600])
    assert refused.json()["error"]["param"] == "documents[2]"
    pairs = {"text_1": ["a", "b", "b", "b"], "text_2": ["c", "c", "", "c" * 600]}
    refused = client.post("/score", **pairs)
    assert refused.json()["error"]["message"].startswith("query and documents[3] must")


def test_errors_have_their_message_where_each_client_looks(client):
    """Cohere's read `message`, Jina's and Voyage's `detail`, the openai client `error`."""
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/sglang/v1/rerank"):
        refused: httpx.Response = client.post(path, query="a")
        message = refused.json()["error"]["message"]
        assert refused.json()["message"] == refused.json()["detail"] == message


def test_scores_of_untrusted_text_on_request(client):
    """Off unless it is asked for: prompts of /v1/score spell their special tokens out themselves."""
    body = {"query": "a<s>", "items": ["b<s>c"]}
    tokens = {
        untrusted: client.post("/v1/score", **body, untrusted_text=untrusted).json()["usage"][
            "prompt_tokens"
        ]
        for untrusted in (None, False, True)
    }
    assert tokens == {None: 5, False: 5, True: 9}
    joint = client.post("/v1/score", **body, untrusted_text=True, tokenization="joint").json()
    assert joint["usage"]["prompt_tokens"] == 9
