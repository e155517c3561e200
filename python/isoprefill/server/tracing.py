"""Traces of requests by OpenTelemetry: one for each, through front end and scheduler. They never hold content.

    POST /v1/score        from its headers to its answer
      prepare             read, checked, tokenised
      queue               handed to the scheduler, until a batch takes it
      batch               one prefill with items of it; a large request has several

Only this file imports OpenTelemetry, and is itself imported only where traces are asked for. The scheduler says when a
request's batches began and ended, by the clock that both processes share; all spans are made and sent here.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import isoprefill
from isoprefill.server.protocol import Step
from isoprefill.server.settings import TraceSettings

LAST_SECONDS = 5.0  # for what is not sent yet when the server ends
_PARENT = (b"traceparent", b"tracestate")  # W3C Trace Context


class RequestTrace:
    """The trace of one request. Moments are seconds of the monotonic clock."""

    def __init__(self, tracer: Any, span: Any, clock_ns: int) -> None:
        """Takes the request's span, and what the monotonic clock lacks of the time of day."""
        self._tracer, self._span, self._clock_ns = tracer, span, clock_ns
        self._context = trace.set_span_in_context(span)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, as in `traceparent`."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def prepared(self, began: float) -> None:
        """Notes that a request was read and tokenised, or refused meanwhile, from a moment until now."""
        self._add("prepare", began, time.monotonic(), {})

    def waited(self, sent: float, steps: Sequence[Step] | None) -> None:
        """Notes what the scheduler did with a request that it got at a moment; None: it gave no answer until now."""
        begun = steps[0].began if steps else time.monotonic()
        self._add("queue", sent, begun, {"isoprefill.answered": steps is not None})
        for step in steps or ():
            counts = {
                "isoprefill.items": step.items,
                "isoprefill.tokens": step.tokens,
                "isoprefill.batch.requests": step.batch_requests,
                "isoprefill.batch.tokens": step.batch_tokens,
                "isoprefill.cached_tokens": step.cached_tokens,
                "isoprefill.algorithm": step.algorithm,
            }
            self._add("batch", step.began, step.ended, counts)

    def end(self, method: str, route: str, status: int, code: str, log: Mapping[str, Any]) -> None:
        """Ends the request with what its log line says; `route` is one of the server's, never what a client wrote."""
        span = self._span
        span.update_name(f"{method} {route}")
        span.set_attribute("http.request.method", method)
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        for name in ("items", "tokens"):
            if name in log:
                span.set_attribute(f"isoprefill.{name}", log[name])
        if code:
            span.set_attribute("error.type", code)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(self._moment(time.monotonic()))

    def _add(self, name: str, began: float, ended: float, attributes: dict[str, Any]) -> None:
        span = self._tracer.start_span(
            name, self._context, start_time=self._moment(began), attributes=attributes
        )
        span.end(self._moment(ended))

    def _moment(self, seconds: float) -> int:
        return int(seconds * 1e9) + self._clock_ns


class Tracing:
    """Makes the traces of a server."""

    def __init__(self, exporter: SpanExporter, settings: TraceSettings, model: str) -> None:
        """Takes what spans are handed to, in a thread that never holds up a request: what it cannot send is dropped."""
        resource = Resource.create(
            {
                SERVICE_NAME: "isoprefill",
                "service.version": isoprefill.__version__,
                "isoprefill.model": model,
            }
        )
        self._provider = TracerProvider(
            resource=resource,
            sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
            shutdown_on_exit=False,  # by `close`
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("isoprefill", isoprefill.__version__)
        self._parent = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[bytes, bytes], began: float) -> RequestTrace:
        """Begins a request's trace, as a part of the one that its `traceparent` names, if it has a valid one."""
        carrier = {
            name.decode(): headers[name].decode("latin-1") for name in _PARENT if name in headers
        }
        clock_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            "request",
            self._parent.extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=int(began * 1e9) + clock_ns,
        )
        return RequestTrace(self._tracer, span, clock_ns)

    def close(self) -> None:
        """Sends what is not sent yet, for `LAST_SECONDS`: a collector that is away must not hold up the end."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(LAST_SECONDS)


def tracing_to(settings: TraceSettings, model: str) -> Tracing:
    """Returns what sends traces to the endpoint of the settings by OTLP over HTTP.

    Raises:
        ImportError: the exporter's package is missing.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # Its warnings, one for each try, repeat what the error after the last one says.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=LAST_SECONDS)
    return Tracing(exporter, settings, model)
