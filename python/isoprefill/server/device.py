"""The scheduler's engine: a ScoringEngine on JAX's default device. The only file of the server that imports jax."""

import logging
from collections.abc import Sequence
from typing import Any

import jax

from isoprefill.execution.engine import ScoringEngine
from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.modes import AlgorithmChoice
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest


class DeviceEngine:
    """A scoring engine that counts its compilations; a `scheduler.Engine`."""

    def __init__(self, engine: ScoringEngine, algorithm: AlgorithmChoice) -> None:
        """Takes the engine and the algorithm of every batch."""
        self._engine = engine
        self._algorithm = algorithm
        self.vocab_size = engine.model.config.vocab_size
        self.max_positions = engine.model.config.max_positions
        self.pack_tokens = engine.pack_tokens
        self.hidden_size = engine.model.config.hidden_size
        self.classes = engine.model.config.classes
        self.device = jax.devices()[0].device_kind
        self.compilations = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def score(self, requests: Sequence[TokenRequest]) -> list[RequestLogprobs]:
        """Returns the log-probabilities of several requests, in their order."""
        return self._engine.score_batch(requests, algorithm=self._algorithm)

    def _on_event(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compilations += 1


def make_engine(settings: EngineSettings) -> DeviceEngine:
    """Loads the model, as `EngineSettings.load` does, for a scheduler."""
    logging.getLogger("jax").setLevel(logging.ERROR)
    return DeviceEngine(settings.load(), settings.algorithm)
