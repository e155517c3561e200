"""Units of work on Ray's actors, of which any may end at any moment.

Ray's own restarts wait for a place on a node, and the calls that an actor held wait with it. Here they go to the other
actors at once, and a new one joins when there is a place for it. What is done twice must do no harm.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from isoprefill.batch.ray_session import RayError

Unit = TypeVar("Unit")
WAIT_S = 1.0
MOST_LOSSES = 20  # of actors that held one unit, or of actors in a row that never began


class ActorPool:
    """A number of actors that are alike."""

    def __init__(self, ray: Any, make: Callable[[], Any], size: int) -> None:
        """Takes what makes an actor, which has a method `ready` of no arguments."""
        self._ray, self._make, self._size = ray, make, size

    def run(
        self, units: Sequence[Unit], call: Callable[[Any, Unit], Any], on_wait: Callable[[], None]
    ) -> Iterator[Any]:
        """Yields what came of each unit, in the order in which they are done.

        Args:
            units: the work.
            call: begins a unit on an actor; returns Ray's reference to what comes of it.
            on_wait: called now and then.

        Raises:
            RayError: actors end whatever they do.
            Exception: what a call raised.
        """
        exceptions = self._ray.exceptions
        waiting = collections.deque(enumerate(units))
        losses: collections.Counter[int] = collections.Counter()
        starting: dict[Any, Any] = {}
        running: dict[Any, tuple[Any, int, Unit]] = {}
        actors: list[Any] = []
        failed_starts = 0

        def start() -> None:
            actor = self._make()
            actors.append(actor)
            starting[actor.ready.remote()] = actor

        def begin(actor: Any) -> None:
            if waiting:
                place, unit = waiting.popleft()
                running[call(actor, unit)] = (actor, place, unit)

        def drop(actor: Any) -> None:
            actors.remove(actor)
            self._ray.kill(actor)

        for _ in range(min(self._size, len(units))):
            start()
        try:
            while waiting or running:
                done, _ = self._ray.wait([*running, *starting], num_returns=1, timeout=WAIT_S)
                on_wait()
                for ref in done:
                    if (actor := starting.pop(ref, None)) is not None:
                        try:
                            self._ray.get(ref)
                        except exceptions.RayError as error:
                            failed_starts += 1
                            if failed_starts >= MOST_LOSSES:
                                raise RayError(f"{failed_starts} actors in a row did not start: {_line(error)}") from error
                            drop(actor)
                            start()
                            continue
                        failed_starts = 0
                        begin(actor)
                        continue
                    actor, place, unit = running.pop(ref)
                    try:
                        result = self._ray.get(ref)
                    except exceptions.RayTaskError as error:
                        raise error.cause or RayError(_line(error)) from None
                    except exceptions.RayError as error:
                        losses[place] += 1
                        if losses[place] >= MOST_LOSSES:
                            raise RayError(
                                f"{MOST_LOSSES} actors ended over the same piece of work, mostly for want of memory: "
                                f"{_line(error)}"
                            ) from error
                        waiting.appendleft((place, unit))
                        drop(actor)
                        start()
                        continue
                    begin(actor)
                    yield result
                # An actor has nothing to do if the last unit was running elsewhere when it began.
                busy = {id(actor) for actor, _, _ in running.values()}
                for actor in actors:
                    if waiting and id(actor) not in busy and actor not in starting.values():
                        begin(actor)
        finally:
            for actor in actors:
                self._ray.kill(actor)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
