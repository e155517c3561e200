"""What the API promises beside scores: its document, its other routes, ids, logs and metrics."""

import json
import pathlib
import re

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

import isoprefill.server.errors
from isoprefill.server.api_models import ScoreRequest, ScoreResponse
from server_fixtures import KEY

pytest_plugins = ["server_fixtures"]

EXAMPLES = {"/v1/score": 40, "/v1/rerank": 40}


def test_model_may_be_called_by_its_name_or_default(server):
    for name in ("tiny", "default"):
        assert server.score(query="a", items=["b"], model=name)["model"] == "tiny"


def test_models_health_and_readiness(server):
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert listed["data"][0]["max_model_len"] == 512
    assert httpx.get(f"{server.url}/v1/models/tiny").json() == listed["data"][0]
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready"}
    for path in ("/health", "/ready"):
        assert httpx.head(server.url + path).status_code == 200


def test_metrics_count(server):
    before = {
        name: server.metric(name)
        for name in ("items_total", "batch_seconds_count", "algorithm_total")
    }
    server.score(query="abc", items=["x", "yz"])
    server.post("/v1/score", query="abc", items=[])
    assert server.metric("items_total") == before["items_total"] + 2
    assert server.metric("algorithm_total", algorithm="packed") >= 1
    assert server.metric("batch_seconds_count") == before["batch_seconds_count"] + 1
    assert server.metric("http_requests_total", route="/v1/score", code="empty_items") >= 1
    assert server.metric("compilations_total") > 0
    assert server.metric("queue_requests") == 0
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("batch_fill_ratio_bucket", "prefix_cache_hit_tokens_total", "queue_tokens"):
        assert f"isoprefill_{name}" in text


def test_request_id_is_the_clients_if_it_is_a_plain_one(server):
    for sent, kept in (("abc-123", True), ("two words", False), ("x" * 129, False)):
        response = httpx.post(
            f"{server.url}/v1/score",
            json={"query": "a", "items": ["b"]},
            headers={"x-request-id": sent},
        )
        assert (response.headers["x-request-id"] == sent) is kept
        assert response.json()["id"] == response.headers["x-request-id"]


def test_the_log_has_ids_and_never_content(server):
    secret = "Xylophone"
    answer = server.score(query=secret, items=[secret])
    server.post("/v1/score", query=secret, items=[secret], label_token_ids=secret)
    httpx.get(f"{server.url}/{secret}?{secret}")
    log = "".join(server.log_text)
    assert answer["id"] in log
    assert secret not in log


def test_the_front_end_never_imports_jax(server):
    """Whatever routes have run: its process must not touch the device."""
    server.score(query="abc", items=["x"])
    mapped = pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "numpy" in mapped
    assert "jaxlib" not in mapped
    assert "jaxlib" in pathlib.Path(f"/proc/{server.scheduler_pid}/maps").read_text()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_what_the_document_says(server, mode):
    """Requests made from the document, right and wrong: no 5xx, documented statuses, documented shapes."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 19
    asked = 0

    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES.get(operation.path, 12 if operation.method == "post" else 3),
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            nonlocal asked
            asked += 1
            case.call_and_validate(
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                    negative_data_rejection,
                ]
            )

        check()
    assert asked > 50


def documentation(name: str) -> str:
    return (pathlib.Path(__file__).parents[2] / "docs" / name).read_text()


def test_every_code_is_documented_with_its_status_and_type():
    """The table of errors is the contract: a code that moves to another status breaks clients."""
    documented = {}
    for line in documentation("api.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0][:3].isdigit():
            for code in re.findall(r"`([a-z_]+)`", re.sub(r"\(.*?\)", "", cells[2])):
                documented[code] = ([int(status) for status in cells[0].split(",")], cells[1])
    codes = isoprefill.server.errors.CODES
    assert set(documented) == set(codes)
    for code, (status, kind) in codes.items():
        assert status in documented[code][0]
        assert kind == documented[code][1]


def test_every_field_is_documented():
    """A field that the table leaves out is found by nobody."""
    text = documentation("api.md")
    section = text[text.index("## POST /v1/score") : text.index("## POST /v1/rerank")]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(ScoreRequest.model_fields)


def test_an_answer_has_the_fields_of_its_model(server):
    """A field that the OpenAPI document does not know would be seen by no other test."""
    options = {
        "top_n": 1,
        "label_token_ids": [1],
        "return_logprob": True,
        "return_token_logprobs": True,
        "return_item_logprobs": True,
        "return_pooled_hidden_states": True,
    }
    answer = server.score(query="a", items=["b"], **options)
    answer |= server.score(query="a", items=["b"], labels=["cd"])
    # test_classification_api has the model that has classes.
    assert {*answer, "classes"} == set(ScoreResponse.model_fields)


def test_every_flag_and_metric_is_documented(server):
    """Whoever runs a server finds in operations.md what there is, and nothing that there is not."""
    from isoprefill.cli import serve

    text = documentation("operations.md")
    ours = {flag.name for flag in serve.FLAGS}
    section = text[text.index("## Flags") : text.index("## Metrics")]
    assert set(re.findall(r"`--([a-z-]+)`", section)) == ours
    shown = set(
        re.findall(r"^# TYPE (isoprefill_\w+)", httpx.get(f"{server.url}/metrics").text, re.M)
    )
    section = text[text.index("## Metrics") :]
    assert set(re.findall(r"`(isoprefill_\w+)", section)) == shown


def test_document_has_the_limits_of_the_server_that_runs(strict_server, server):
    plain = httpx.get(f"{server.url}/openapi.json").json()
    response = httpx.get(
        f"{strict_server.url}/openapi.json", headers={"authorization": f"Bearer {KEY}"}
    )
    strict = response.json()
    sizes = json.dumps(strict["components"]["schemas"]["ScoreRequest"]["properties"]["items"])
    assert '"maxItems": 5' in sizes
    assert strict["paths"]["/v1/score"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in plain["paths"]["/v1/score"]["post"]
