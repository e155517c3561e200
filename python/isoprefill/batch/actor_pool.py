"""Units of work on Ray's actors, of which any may end at any moment.

Ray's own restarts wait for a place on a node, and the calls that an actor held wait with it. Here they go to the other
actors at once, and a new one joins when there is a place for it. What is done twice must do no harm.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from isoprefill.batch.ray_session import RayError

Unit = TypeVar("Unit")
WAIT_S = 1.0
MOST_LOSSES = 20  # of actors that held one unit, or of actors in a row that never began


class ActorPool(Generic[Unit]):
    """A number of actors that are alike, and the units that they share."""

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Any],
        size: int,
        units: Sequence[Unit],
        call: Callable[[Any, Unit], Any],
    ) -> None:
        """Starts no actor yet.

        Args:
            ray: the module, connected.
            make: makes an actor, which has a method `ready` of no arguments.
            size: how many actors.
            units: the work.
            call: begins a unit on an actor; returns Ray's reference to what comes of it.
        """
        self._ray, self._make, self._call = ray, make, call
        self._size = min(size, len(units))
        self._waiting = collections.deque(enumerate(units))
        self._losses: collections.Counter[int] = collections.Counter()
        self._failed_starts = 0
        # By the reference that the actor is to answer.
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, int, Unit]] = {}
        self._idle: list[Any] = []

    def run(self, on_wait: Callable[[], None]) -> Iterator[Any]:
        """Yields what came of each unit, in the order in which they are done.

        Args:
            on_wait: called now and then.

        Raises:
            RayError: actors end whatever they do.
            Exception: what a call raised.
        """
        try:
            for _ in range(self._size):
                self._start()
            while self._waiting or self._running:
                answers = [*self._running, *self._starting]
                done, _ = self._ray.wait(answers, num_returns=1, timeout=WAIT_S)
                on_wait()
                if not done and not self._running:
                    self._check_nodes()
                for answer in done:
                    if answer in self._starting:
                        self._started(answer)
                    else:
                        yield from self._finished(answer)
                while self._idle and self._waiting:
                    self._begin(self._idle.pop())
        finally:
            held = (actor for actor, _, _ in self._running.values())
            for actor in (*held, *self._starting.values(), *self._idle):
                self._ray.kill(actor)

    def _check_nodes(self) -> None:
        """Raises RayError if no node is left on which an actor could begin: Ray itself would wait for one forever."""
        if not any(node["Alive"] for node in self._ray.nodes()):
            raise RayError(
                "Ray's last node has ended: start the same command again, and it continues"
            )

    def _start(self) -> None:
        actor = self._make()
        self._starting[actor.ready.remote()] = actor

    def _begin(self, actor: Any) -> None:
        place, unit = self._waiting.popleft()
        self._running[self._call(actor, unit)] = (actor, place, unit)

    def _started(self, answer: Any) -> None:
        actor = self._starting.pop(answer)
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._replace(actor, self._failed_starts, "actors in a row did not start", error)
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _finished(self, answer: Any) -> Iterator[Any]:
        """Yields what came of a unit, unless its actor has ended."""
        actor, place, unit = self._running.pop(answer)
        try:
            result = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(actor)
            raise error.cause or RayError(_line(error)) from None
        except self._ray.exceptions.RayError as error:
            self._waiting.appendleft((place, unit))
            self._losses[place] += 1
            what = "actors ended over the same piece of work, mostly for want of memory"
            self._replace(actor, self._losses[place], what, error)
        else:
            self._idle.append(actor)
            if self._waiting:  # before the caller looks at the result
                self._begin(self._idle.pop())
            yield result

    def _replace(self, actor: Any, losses: int, what: str, error: Exception) -> None:
        self._ray.kill(actor)
        if losses >= MOST_LOSSES:
            raise RayError(f"{losses} {what}: {_line(error)}") from error
        self._start()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
