"""Ray: started on this machine, or joined where it runs."""

import contextlib
import dataclasses
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

from isoprefill.host.threads import usable_threads

OBJECT_STORE_BYTES = 200_000_000  # hardly used: rows travel through files
CONNECT_S = 10.0
STARTS = 3  # tries to start Ray on this machine


class RayError(RuntimeError):
    """Ray cannot be used; the message is one line."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """Where the work is done.

    Attributes:
        address: of a running cluster, as `ray.init` takes it; None starts Ray on this machine.
        replicas: how many engines.
        resources: what each of them needs on its node, by Ray's names, such as {"CPU": 8, "TPU": 4}.
    """

    address: str | None = None
    replicas: int = 1
    resources: dict[str, float] = dataclasses.field(default_factory=lambda: {"CPU": 1.0})

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= 10_000:
            raise ValueError(f"replicas must be between 1 and 10000, got {self.replicas}")
        for name, number in self.resources.items():
            if not 0 <= number < 1e6:
                raise ValueError(f"replica-resources {name} must be at least 0, got {number}")

    def options(self) -> dict[str, Any]:
        """Returns the options of an actor that needs these resources."""
        others = {name: one for name, one in self.resources.items() if name not in ("CPU", "GPU")}
        return {
            "num_cpus": self.resources.get("CPU", 0),
            "num_gpus": self.resources.get("GPU", 0),
            "resources": others,
        }


def parse_resources(text: str) -> dict[str, float]:
    """Reads "CPU=8,TPU=4".

    Raises:
        ValueError: it is something else.
    """
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\w.:-]+)\s*=\s*(\d+(?:\.\d+)?)\s*", part)
        if match is None or match[1] in found:
            raise ValueError(f"replica-resources must be like 'CPU=8,TPU=4', got {text!r}")
        found[match[1]] = float(match[2])
    return found


@contextlib.contextmanager
def ray_session(settings: RaySettings) -> Iterator[Any]:
    """Yields the module `ray`, connected; shuts it down if it was not connected before.

    Raises:
        ImportError: Ray is not installed.
        RayError: it does not start, or is not where it should be.
    """
    # Read by Ray when it is imported or started; what the user has set stays.
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_DISABLE_IMPORT_WARNING", "1"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
    ):
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    _connect(ray, settings)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, settings: RaySettings) -> None:
    """Joins Ray, or starts it. On a busy machine its start may take longer than the 30 s that it allows itself."""
    _check_reachable(settings.address or "")
    options: dict[str, Any] = {"address": settings.address}
    if settings.address is None:
        cpus = int(-(-settings.replicas * settings.resources.get("CPU", 0) // 1))
        options = {
            "address": "local",
            "num_cpus": max(usable_threads(), cpus),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    for starts_left in reversed(range(STARTS if settings.address is None else 1)):
        try:
            ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
            return
        except Exception as error:  # Ray raises this class itself
            ray.shutdown()
            if not starts_left:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                place = settings.address or "this machine"
                raise RayError(f"Ray at {place} cannot be used: {reason}") from error


def _check_reachable(address: str) -> None:
    """Raises RayError if nobody listens at HOST:PORT: Ray would try for minutes, and say so in many lines."""
    match = re.fullmatch(r"([^/:]+):(\d{1,5})", address)
    if match is None:  # none, auto, or a URI
        return
    try:
        socket.create_connection((match[1], int(match[2])), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RayError(f"Ray at {address} cannot be used: {reason}") from error
