"""What is bounded in the memory of the front end, and what reaches its log."""

import asyncio
import contextlib
import json
import logging
import sys
import tracemalloc

import pytest

from isoprefill.request.errors import RequestError
from isoprefill.server import admission, bodies, logs
from isoprefill.server.api_models import ScoreRequest
from isoprefill.server.errors import ApiError
from isoprefill.server.front_end import all_bodies
from isoprefill.server.settings import Limits
from isoprefill.server.validation import validate

pytest_plugins = ["server_fixtures"]


def test_bodies_that_are_being_read_are_bounded_together():
    """Many clients that each send a large body slowly must not add up to all of the memory."""
    memory = bodies.BodyMemory(Limits(max_body_bytes=100))
    holding = asyncio.Event()

    async def slow():
        if holding.is_set():
            await asyncio.sleep(3600)
        holding.set()
        return {"type": "http.request", "body": b"a" * 100, "more_body": True}

    async def all_of_them() -> None:
        reading, all_bodies = [], []
        for _ in range(bodies.BODIES_AT_ONCE):
            holding.clear()
            all_bodies.append(bodies.Body(memory, {}, slow))
            reading.append(asyncio.create_task(all_bodies[-1].read()))
            await holding.wait()
        holding.clear()
        with pytest.raises(ApiError) as refused:
            await bodies.Body(memory, {}, slow).read()
        assert refused.value.code == "queue_full"
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

        async def small():
            return {"type": "http.request", "body": b"{}"}

        with pytest.raises(ApiError):  # what was read is held until its request has been answered
            await bodies.Body(memory, {}, small).read()
        for body in all_bodies:
            body.release()
        assert await bodies.Body(memory, {}, small).read() == b"{}"  # their memory is free

    asyncio.run(all_of_them())


def test_a_refused_body_that_does_not_end_is_not_waited_for(monkeypatch):
    """A client that is refused and goes on sending a byte at a time holds nothing for long."""
    monkeypatch.setattr(bodies, "DRAIN_S", 0.05)

    async def endless():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"a", "more_body": True}

    body = bodies.Body(bodies.BodyMemory(Limits()), {}, endless)
    asyncio.run(body.drop_rest())
    assert not body.finished


def test_the_rate_limit_is_by_client_and_forgets_the_oldest():
    """Each address has a share of its own; addresses without end do not fill the memory."""
    rate = admission.RateLimiter(rate=1.0, burst=2)
    for client in ("a", "b"):
        rate.check(client, now=0.0)
        rate.check(client, now=0.0)
        with pytest.raises(ApiError) as refused:
            rate.check(client, now=0.5)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.retry_after_s == pytest.approx(0.5)
        rate.check(client, now=1.5)
    for number in range(admission.REMEMBERED_CLIENTS):
        rate.check(str(number), now=2.0)
    rate.check("a", now=2.0)
    rate.check("a", now=2.0)  # as a newcomer: its two at once


@pytest.mark.parametrize(("seconds", "sent"), [(0.0, "1"), (1.0, "1"), (1.4, "2"), (2.5, "3")])
def test_retry_after_is_not_too_early(seconds, sent):
    """Who comes again when told must not be refused again."""
    error = ApiError("rate_limit_exceeded", "", retry_after_s=seconds)
    assert error.headers() == {"retry-after": sent}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_line_is_one_line_and_holds_no_message_of_an_exception(log_format):
    """What a client sends cannot begin a line of its own in the log, nor be read in it."""
    formatter = logs._Formatter(log_format, "front-end")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "first\nsecond", None, None)
    record.fields = {"path": "a\n2026 I forged", "plain": "word", "number": 1.5}
    try:
        raise ValueError("the content of a request")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "\n" not in line
    assert "ValueError" in line
    assert "content" not in line
    if log_format == "json":
        assert json.loads(line)["number"] == 1.5
    else:
        assert line.endswith("Z E front-end " + line.partition("front-end ")[2])
        assert " plain=word number=1.5 " in line


MANY = 5000
WRONG = {
    "of null": [None] * MANY,
    "of empty texts": [""] * MANY,
    "of numbers": [-1] * MANY,
    "of lists": [[]] * MANY,
    "in a list": [[""] * MANY],
    "of numbers in a list": [[1, *[-1] * MANY]],
    "of objects": [{"x": 1}] * MANY,
    "further keys": {str(number): 1 for number in range(MANY)},
    "further keys in a list": [{str(number): 1 for number in range(MANY)}],
    "further keys in lists": [[{str(number): 1 for number in range(MANY)}]],
}


@pytest.mark.parametrize("kind", all_bodies(), ids=lambda kind: kind.__name__)
def test_many_faults_of_a_body_cost_as_much_as_one(kind):
    """An error for each of millions of elements took a minute and gigabytes, and nobody else was answered."""
    bodies_of = [{name: value} for name in kind.model_fields for value in WRONG.values()]
    for raw in [*bodies_of, {str(number): 1 for number in range(MANY)}]:
        tracemalloc.start()
        try:
            with contextlib.suppress(RequestError):  # an elsewhere empty body
                validate(kind, raw)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        field = next(iter(raw))
        assert peak < 100 * MANY, f"{field}: {raw[field]!r:.60}"


def test_vectors_of_further_keys_are_refused():
    fields = {"base64": "", "dtype": "float32", "shape": [1]}
    body = {"query": "a", "items": ["b"], "query_embed_overrides": fields}
    with pytest.raises(RequestError, match="must have the keys base64 and dtype only") as refused:
        validate(ScoreRequest, body)
    assert refused.value.param == "query_embed_overrides"
