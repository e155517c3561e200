"""Starts a server and runs it until it is told to stop."""

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from isoprefill.models.sources.description import describe_model
from isoprefill.models.sources.source import find_model, load_tokenizer
from isoprefill.server import logs
from isoprefill.server.connection import protocol_class
from isoprefill.server.front_end import make_app
from isoprefill.server.service import Service
from isoprefill.server.settings import Limits, ServerSettings
from isoprefill.server.supervisor import SCHEDULER_COMMAND, StartError, Supervisor

SPARE_FILES = 64  # beside those of connections
FEWEST_CONNECTIONS = 8


def serve(settings: ServerSettings, scheduler_command: Sequence[str] = SCHEDULER_COMMAND) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is in flight and returns.

    Args:
        settings: what to serve, and how.
        scheduler_command: the scheduler's program.

    Raises:
        ValueError: a setting is wrong or does not go with the others, or the address is taken or not this machine's;
            says which.
        FetchError: a pinned model could not be fetched.
        StartError: the model could not be started, or this process may open too few files; says why.
    """
    logs.configure(settings.log_format, "front-end")
    # Texts are tokenised in this thread or in one of `Service`: the other cores are the scheduler's.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    model = find_model(settings.engine.model)
    tokenizer, description = load_tokenizer(model), describe_model(model)
    settings = _fitted(settings)
    service = Service(settings, model.name, tokenizer, description)
    if settings.traces.endpoint is not None:
        service.tracing = _tracing(settings, model.name)
    del model  # with its header, which is 60 MB for a vocabulary of 262,144 tokens
    with contextlib.closing(service), _listening_socket(settings) as listener:
        asyncio.run(_serve(service, listener, scheduler_command))


def _tracing(settings: ServerSettings, model: str) -> Any:
    try:
        from isoprefill.server.tracing import tracing_to

        return tracing_to(settings.traces, model)
    except ImportError as error:
        raise ValueError(
            f"otel-endpoint needs OpenTelemetry ({error}): pip install 'isoprefill[otel]'"
        ) from error


async def _serve(
    service: Service, listener: socket.socket, scheduler_command: Sequence[str]
) -> None:
    settings = service.settings
    config = uvicorn.Config(
        make_app(service),
        http=protocol_class(settings.limits),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-For is what a client says: the rate limit is by the address that it has
        backlog=min(settings.limits.max_connections, 2048),
        timeout_graceful_shutdown=max(1, round(settings.limits.drain_timeout_s)),
    )

    supervisor = Supervisor(service, service.on_ready, scheduler_command)
    supervising = asyncio.create_task(supervisor.run())
    server = _Server(config, service, supervising)
    supervising.add_done_callback(lambda _: server.end())
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    logs.event("listening", url=f"http://{address}:{port}", model=service.model_names[0])
    try:
        await server.serve(sockets=[listener])
    finally:
        if not supervising.done():
            supervising.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervising
        logs.event("ended")


class _Server(uvicorn.Server):
    """uvicorn's server, whose end by a signal is a normal one."""

    def __init__(
        self, config: uvicorn.Config, service: Service, supervising: asyncio.Task[None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._supervising = supervising

    def end(self) -> None:
        """Stops accepting connections; what is in flight is still answered."""
        self._service.draining = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        logs.event("draining", signal=number.name)
        if self.should_exit:  # the second one: at once
            self.force_exit = True
            # Fails what is in flight: since Python 3.12 asyncio waits until every connection has its answer.
            self._supervising.cancel()
        self.end()


def _listening_socket(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off (a small answer would wait 40 ms) only where it is told of TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error  # of a name that does not resolve, too
        raise ValueError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}"
        ) from None
    return listener


def _fitted(settings: ServerSettings) -> ServerSettings:
    """Raises the limit of open files as far as the connections need; returns settings with fewer if it may not be.

    Raises:
        ValueError: a number of connections that was set does not fit.
        StartError: hardly any does.
    """
    limits = settings.limits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * limits.max_connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return settings
    most = (hard - SPARE_FILES) // 2
    files = f"this process may open {hard} files (ulimit -n)"
    if most < FEWEST_CONNECTIONS:
        least = 2 * FEWEST_CONNECTIONS + SPARE_FILES
        raise StartError(
            f"a server needs at least {least} open files, but {files}: raise the limit (ulimit -n {least})"
        )
    if limits.max_connections != Limits().max_connections:
        raise ValueError(
            f"max-connections must be at most {most}, because {files} and a connection takes two, got "
            f"{limits.max_connections}"
        )
    logs.event("fewer_connections", max_connections=most, reason=files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return dataclasses.replace(settings, limits=dataclasses.replace(limits, max_connections=most))
