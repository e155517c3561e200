"""Traces by OpenTelemetry itself: a server beside a collector, and the front end with an in-memory exporter.

Needs its packages (requirements/otel.lock). If one of these fails, a request cannot be followed through the server, or
a trace says what was asked.
"""

import asyncio
import gzip
import http.server
import threading
import time

import httpx
import pytest

from isoprefill.server import protocol
from isoprefill.server.settings import TraceSettings
from running_server import running_server, wait_for
from unconnected_service import unconnected_service

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from isoprefill.server.front_end import make_app
from isoprefill.server.tracing import Tracing

pytest_plugins = ["server_fixtures"]

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
QUERY, ITEMS = "Quetzalcoatlus", [f" Zaphod{number}" for number in range(12)]


class Collector(http.server.ThreadingHTTPServer):
    """Takes what a server sends by OTLP."""

    def __init__(self):
        self.bodies, self.spans = [], []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def of(self, trace_id):
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(body)
        sent = trace_service.ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def attributes(span):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector():
    with Collector() as one:
        yield one
        one.shutdown()


@pytest.fixture(scope="module")
def traced(model_directory, collector):
    flags = [f"--model={model_directory}", "--warmup-tokens=", "--max-batch-tokens=64"]
    settings = {"ISOPREFILL_OTEL_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with running_server(*flags, "--otel-sample-ratio=0", **settings) as server:
        yield server


def asked(server, **headers):
    body = {"query": QUERY, "items": ITEMS}
    return httpx.post(f"{server.url}/v1/score", json=body, headers=headers, timeout=60)


def test_one_trace_goes_through_front_end_and_scheduler(traced, collector):
    """As a part of the client's trace, with a span for each wait and each prefill, and the counts of each."""
    response = asked(traced, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1")
    assert response.status_code == 200
    wait_for(lambda: any(span.name == "POST /v1/score" for span in collector.of(TRACE)))
    spans = collector.of(TRACE)
    (request,) = (span for span in spans if span.name == "POST /v1/score")
    assert request.parent_span_id.hex() == PARENT
    assert request.trace_state == "vendor=1"
    assert request.kind == request.SPAN_KIND_SERVER
    others = [span for span in spans if span is not request]
    assert {span.parent_span_id for span in others} == {request.span_id}
    for span in spans:
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= request.end_time_unix_nano
    assert abs(request.end_time_unix_nano / 1e9 - time.time()) < 120

    (prepare,) = (span for span in spans if span.name == "prepare")
    (queue,) = (span for span in spans if span.name == "queue")
    batches = sorted(
        (span for span in spans if span.name == "batch"), key=lambda span: span.start_time_unix_nano
    )
    assert len(spans) == 3 + len(batches)
    assert prepare.end_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == batches[0].start_time_unix_nano
    assert len(batches) > 1  # the request is larger than a batch
    told = [attributes(span) for span in batches]
    assert sum(one["isoprefill.items"] for one in told) == len(ITEMS)
    assert all(0 < one["isoprefill.tokens"] <= one["isoprefill.batch.tokens"] for one in told)
    of_request = attributes(request)
    assert of_request["isoprefill.items"] == len(ITEMS)
    query_tokens = len(QUERY)  # a token a letter
    items_tokens = sum(one["isoprefill.tokens"] - query_tokens for one in told)
    assert of_request["isoprefill.tokens"] == items_tokens + query_tokens
    assert of_request["http.response.status_code"] == 200
    (line,) = (one for one in traced.events("request") if one.get("trace_id") == TRACE)
    assert line["status"] == 200


def test_no_trace_holds_content(traced, collector):
    """Neither of good requests, nor of bad ones, whose errors may quote it."""
    bad = "00-" + "1" * 32 + f"-{PARENT}-01"
    body = {"query": QUERY, "items": ITEMS, "model": "Trillian"}
    answer = httpx.post(f"{traced.url}/v1/score", json=body, headers={"traceparent": bad})
    assert answer.status_code == 404
    httpx.get(f"{traced.url}/Marvin?key=Ford", headers={"traceparent": bad})
    wait_for(lambda: len([s for s in collector.of("1" * 32) if s.kind == s.SPAN_KIND_SERVER]) == 2)
    names = {span.name for span in collector.of("1" * 32)}
    assert names == {"POST /v1/score", "GET other", "prepare"}
    found = next(span for span in collector.of("1" * 32) if span.name == "POST /v1/score")
    assert attributes(found)["error.type"] == "model_not_found"
    for word in (QUERY, "Zaphod", "Trillian", "Marvin", "Ford"):
        assert not any(word.encode() in sent for sent in collector.bodies)


def test_the_sampling_of_the_client_counts_and_else_our_own(traced, collector):
    """The ratio of this server is 0; ids that are not valid begin a trace of our own."""
    before = len(collector.spans)
    asked(traced)
    asked(traced, traceparent=f"00-{'2' * 32}-{PARENT}-00")
    asked(traced, traceparent="00-nonsense-01")
    asked(traced, traceparent=f"00-{'0' * 32}-{PARENT}-01")
    httpx.get(f"{traced.url}/health", headers={"traceparent": f"00-{'3' * 32}-{PARENT}-01"})
    asked(traced, traceparent=f"00-{'4' * 32}-{PARENT}-01")
    wait_for(lambda: any(span.name == "POST /v1/score" for span in collector.of("4" * 32)))
    assert {span.trace_id.hex() for span in collector.spans[before:]} == {"4" * 32}


def test_a_server_whose_collector_is_away_answers_and_ends(model_directory):
    """Nothing waits for a collector, and what it does not take is dropped."""
    flags = [f"--model={model_directory}", "--warmup-tokens="]
    with running_server(*flags, "--otel-endpoint=http://127.0.0.1:9/v1/traces") as server:
        assert asked(server).status_code == 200
        assert server.stop() == 0


@pytest.fixture
def memory(model_directory):
    """The front end alone, with an exporter that keeps what it gets."""
    exporter = InMemorySpanExporter()
    service = unconnected_service(model_directory)
    service.tracing = Tracing(exporter, TraceSettings(endpoint="http://unused"), "tiny")
    yield service, exporter
    service.close()


def finished(service, exporter):
    service.tracing._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_that_gets_no_answer_is_traced(memory):
    """A queue in which requests die must be seen as such."""
    service, exporter = memory

    class Silent:
        def send(self, message):
            if isinstance(message, protocol.Score):
                service.dispatcher.receive(protocol.Failed(message.id))

    service.dispatcher.connect(Silent())

    async def post():
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/v1/score", json={"query": "a", "items": ["b"]})

    assert asyncio.run(post()).status_code == 500
    spans = finished(service, exporter)
    assert spans.keys() == {"POST /v1/score", "prepare", "queue"}
    assert spans["queue"].attributes["isoprefill.answered"] is False
    request = spans["POST /v1/score"]
    assert request.attributes["error.type"] == "internal_error"
    assert not request.status.is_ok
