"""An exception survives the way to another process.

If one of these fails, a worker of multiprocessing or concurrent.futures hides the real error behind a TypeError.
"""

import importlib
import inspect
import pickle
import pkgutil

import pytest

import isoprefill
from isoprefill.request.errors import MESSAGES, RequestError
from isoprefill.server.errors import ApiError

# Modules that define flags or need other packages; none has an exception of its own.
NO_ERRORS = (
    "isoprefill.__main__",
    "isoprefill.cli",
    "isoprefill.integrations",
    "isoprefill.server.tracing",
)


def exception_classes() -> list[type[Exception]]:
    found = set()
    for module in pkgutil.walk_packages(isoprefill.__path__, "isoprefill."):
        if module.name.startswith(NO_ERRORS):
            continue
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(one, Exception) and one.__module__.startswith("isoprefill."):
                found.add(one)
    return sorted(found, key=lambda one: one.__qualname__)


MADE = {
    RequestError: lambda: RequestError("context_length_exceeded", "items", 3, limit=9, value="1"),
    ApiError: lambda: ApiError("queue_full", "The queue is full.", "items"),
}


@pytest.mark.parametrize("kind", exception_classes(), ids=lambda kind: kind.__name__)
def test_an_exception_is_pickled_with_all_that_it_says(kind):
    error = MADE.get(kind, lambda: kind("what went wrong"))()
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.args) == (str(error), error.args)
    assert vars(again) == vars(error)


def test_a_request_error_equals_its_copy():
    errors = [
        RequestError("empty_item", "items", 3),
        RequestError("empty_item", "items", 4),
        RequestError("empty_query", "query"),
        RequestError("too_many_items", "items", limit=1, value=2),
        RequestError("too_many_items", "items", limit=1, value=3),
    ]
    for place, error in enumerate(errors):
        again = pickle.loads(pickle.dumps(error))
        assert [other == again for other in errors] == [i == place for i in range(len(errors))]
        assert hash(again) == hash(error)
        assert (again.code, again.param, again.message("documents")) == (
            error.code,
            error.param,
            error.message("documents"),
        )
    assert errors[0].rule in MESSAGES
