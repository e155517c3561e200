"""What computes: processor or accelerator, memory, threads, and the versions of what runs on it."""

import platform
from collections.abc import Iterator
from importlib import metadata

import jax

import isoprefill
import isoprefill_csrc
from isoprefill.doctor.finding import Finding
from isoprefill.execution.failures import shown_bytes
from isoprefill.host.memory import host_bytes
from isoprefill.host.processor import processor_name
from isoprefill.host.threads import usable_threads, use_threads

_LIBRARIES = ("jax", "jaxlib", "libtpu", "numpy")


def describe_machine() -> Iterator[Finding]:
    """Yields what the machine has; nothing of it is a fault."""
    yield Finding("versions", "ok", _versions())
    yield Finding(
        "processor", "ok", f"{processor_name()}, {platform.machine()}, {platform.system()}"
    )
    threads, usable = use_threads(), usable_threads()
    if threads < usable:
        detail = f"{threads} of the {usable} that this process may run at once"
        yield Finding("threads", "note", detail, "set ISOPREFILL_THREADS to change it")
    else:
        yield Finding("threads", "ok", f"{threads}")
    yield Finding("memory", "ok", f"{shown_bytes(host_bytes())} for this process")
    yield _instructions()
    yield Finding("devices", "ok", _devices())


def _versions() -> str:
    found = [f"isoprefill {isoprefill.__version__}", f"Python {platform.python_version()}"]
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _instructions() -> Finding:
    available = isoprefill_csrc.available_instructions()
    best = isoprefill_csrc.best_instructions()
    if best != available[-1]:
        detail = f"{best}, though the processor has {available[-1]}"
        return Finding("instructions", "note", detail, "unset ISOPREFILL_INSTRUCTIONS to use all")
    return Finding("instructions", "ok", f"{best} (of {', '.join(available)})")


def _devices() -> str:
    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    limit = f", {shown_bytes(stats['bytes_limit'])} each" if "bytes_limit" in stats else ""
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}){limit}"
