"""Actors end at any moment, and every unit is still done.

If one of these fails, a job loses work when a process ends, or waits forever for what will not come.
"""

import collections

import pytest

from inline_ray import InlineRay
from isoprefill.batch.actor_pool import MOST_LOSSES, ActorPool
from isoprefill.batch.ray_session import RayError


class Doubler:
    """An actor."""

    def ready(self):
        pass

    def double(self, number):
        if number < 0:
            raise ValueError(f"{number} is below 0")
        return 2 * number


def pool_of(ray, size, units):
    make = ray.remote(Doubler).options(num_cpus=1).remote
    return ActorPool(ray, make, size, units, lambda actor, unit: actor.double.remote(unit))


@pytest.mark.parametrize("size", [1, 3, 50])
def test_every_unit_is_done_once(size):
    ray = InlineRay()
    waits = []
    found = list(pool_of(ray, size, range(20)).run(lambda: waits.append(1)))
    assert sorted(found) == [2 * one for one in range(20)]
    assert len(ray.made) == len(ray.killed) == min(size, 20)
    assert waits


@pytest.mark.parametrize("size", [1, 3])
def test_a_lost_unit_is_done_by_another_actor(size):
    """Each third call kills its actor."""
    calls: collections.Counter[str] = collections.Counter()

    def lose(name, *arguments):
        calls[name] += 1
        return name == "double" and calls[name] % 3 == 0

    ray = InlineRay(lose)
    assert sorted(pool_of(ray, size, range(20)).run(lambda: None)) == [2 * one for one in range(20)]
    lost = calls["double"] - 20
    assert lost >= 6
    assert len(ray.made) == size + lost
    assert set(ray.killed) == set(ray.made)


def test_actors_that_do_not_start_are_made_again():
    starts: collections.Counter[str] = collections.Counter()

    def lose(name, *arguments):
        starts[name] += 1
        return name == "ready" and starts[name] <= 5

    assert list(pool_of(InlineRay(lose), 1, [4]).run(lambda: None)) == [8]


@pytest.mark.parametrize(
    ("method", "message"), [("double", "over the same piece"), ("ready", "in a row")]
)
def test_what_always_fails_ends_the_job(method, message):
    """A block that exhausts memory each time must not be tried forever."""
    ray = InlineRay(lambda name, *arguments: name == method)
    with pytest.raises(RayError, match=f"{MOST_LOSSES} actors .*{message}"):
        list(pool_of(ray, 1, [4]).run(lambda: None))


def test_what_a_call_raises_reaches_the_caller():
    ray = InlineRay()
    with pytest.raises(ValueError, match="-1 is below 0"):
        list(pool_of(ray, 2, [1, 2, -1, 3]).run(lambda: None))
    assert set(ray.killed) == set(ray.made)


def test_a_job_ends_when_there_is_no_node_left():
    """Ray would wait for a new one forever."""
    ray = InlineRay()
    ray.alive = False
    with pytest.raises(RayError, match="last node has ended"):
        list(pool_of(ray, 2, [1, 2]).run(lambda: None))


def test_nothing_to_do_makes_no_actor():
    ray = InlineRay()
    assert list(pool_of(ray, 3, []).run(lambda: None)) == []
    assert ray.made == []
