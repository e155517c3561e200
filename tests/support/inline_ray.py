"""What `isoprefill.batch` uses of Ray, in this process: a call is done when it is made, and any may be told to fail."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _RayError(Exception):
    """As `ray.exceptions.RayError`."""


class _RayTaskError(_RayError):
    """As `ray.exceptions.RayTaskError`: a call raised something."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclasses.dataclass(eq=False)
class _Answer:
    value: Any = None
    error: Exception | None = None


class InlineRay:
    """Stands in for the module `ray`.

    Attributes:
        lose: called with the name of a method and its arguments; True: the actor dies instead of answering.
        alive: whether the only node is.
        killed: actors that were killed.
        made: actors that were made.
    """

    exceptions = SimpleNamespace(RayError=_RayError, RayTaskError=_RayTaskError)

    def __init__(self, lose: Callable[..., bool] = lambda *call: False) -> None:
        self.lose, self.alive = lose, True
        self.killed: list[Any] = []
        self.made: list[Any] = []

    def remote(self, kind: type) -> Any:
        def make(*arguments: Any) -> Any:
            self.made.append(_Actor(self, kind(*arguments)))
            return self.made[-1]

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=make))

    def wait(
        self, answers: list[Any], num_returns: int, timeout: float
    ) -> tuple[list[Any], list[Any]]:
        ready = answers[:1] if self.alive else []
        return ready, answers[len(ready) :]

    def get(self, answer: _Answer) -> Any:
        if answer.error is not None:
            raise answer.error
        return answer.value

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": self.alive}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


class _Actor:
    def __init__(self, ray: InlineRay, of: Any) -> None:
        self._ray, self._of = ray, of

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> _Answer:
            if self._ray.lose(name, *arguments):
                return _Answer(error=_RayError("the actor died"))
            try:
                return _Answer(getattr(self._of, name)(*arguments))
            except Exception as error:
                return _Answer(error=_RayTaskError(error))

        return SimpleNamespace(remote=call)
