"""What /metrics shows, in Prometheus's format."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.protocol import BatchDone

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = tuple(1 << power for power in range(6, 18))
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Metrics:
    """The counters of one server. Labels take few values: routes, statuses, codes, algorithms."""

    def __init__(self) -> None:
        """Starts at zero, with a registry of its own."""
        self.registry = CollectorRegistry()
        prometheus_client.disable_created_metrics()
        prometheus_client.ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"isoprefill_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"isoprefill_{name}", text, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"isoprefill_{name}", text, labels, registry=self.registry, buckets=buckets
            )

        self.http_requests = counter(
            "http_requests", "Answers, by route, status and error code.", "route", "status", "code"
        )
        self.http_seconds = histogram(
            "http_request_seconds", "Seconds from request to answer.", _SECONDS, "route"
        )
        self.items = counter("items", "Items scored.")
        self.tokens = counter("tokens", "Tokens scored, of queries and of items.", "of")
        self._tokens_of_queries = self.tokens.labels("query")
        self._tokens_of_items = self.tokens.labels("item")
        self.cached_tokens = counter(
            "prefix_cache_hit_tokens", "Query tokens found in the prefix cache."
        )
        self.query_tokens = counter(
            "prefix_cache_query_tokens", "Query tokens that were looked up in the prefix cache."
        )
        self.algorithms = counter("algorithm", "Requests by the algorithm chosen.", "algorithm")
        self.queue_requests = gauge("queue_requests", "Requests accepted and not yet answered.")
        self.queue_tokens = gauge(
            "queue_tokens", "Tokens of requests accepted and not yet answered."
        )
        self.scheduler_waiting = gauge(
            "scheduler_waiting_requests", "Requests still waiting after the last batch."
        )
        self.batch_seconds = histogram("batch_seconds", "Seconds to compute one batch.", _SECONDS)
        self.batch_requests = histogram(
            "batch_requests", "Requests packed into one batch.", _COUNTS
        )
        self.batch_tokens = histogram("batch_tokens", "Tokens of one batch.", _TOKENS)
        self.batch_fill = histogram(
            "batch_fill_ratio", "Tokens of a batch divided by its token budget.", _RATIOS
        )
        self.compilations = counter("compilations", "Programs compiled, or read from the cache.")
        self.scheduler_ready = gauge("scheduler_ready", "1 when the model is loaded and warm.")
        self.scheduler_restarts = counter(
            "scheduler_restarts", "Number of times the scheduler process was restarted."
        )

    def observe_batch(self, batch: BatchDone) -> None:
        self.batch_seconds.observe(batch.seconds)
        self.batch_requests.observe(batch.requests)
        self.batch_tokens.observe(batch.tokens)
        self.batch_fill.observe(batch.tokens / batch.budget)
        self.compilations.inc(batch.compilations)
        self.cached_tokens.inc(batch.cached_tokens)
        self.query_tokens.inc(batch.query_tokens)
        self.scheduler_waiting.set(batch.waiting)

    def observe_scored(self, request: TokenRequest, result: RequestLogprobs) -> None:
        self.items.inc(len(request.items))
        self._tokens_of_queries.inc(request.query.size)
        self._tokens_of_items.inc(request.num_tokens - request.query.size)
        self.algorithms.labels(result.algorithm).inc()

    def observe_answer(self, route: str, status: int, code: str, seconds: float) -> None:
        self.http_requests.labels(route, str(status), code).inc()
        self.http_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it, in the text format."""
        return prometheus_client.generate_latest(self.registry)
