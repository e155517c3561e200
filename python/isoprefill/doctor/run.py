"""All checks, one after another."""

from collections.abc import Callable, Iterator
from typing import Literal

import jax

import isoprefill_csrc
from isoprefill.doctor.attention import check_attention
from isoprefill.doctor.cache_folders import check_cache_folders
from isoprefill.doctor.finding import Finding
from isoprefill.doctor.layers import check_layer_kernels
from isoprefill.doctor.machine import describe_machine
from isoprefill.doctor.scoring import DEFAULT_MODEL, check_scoring
from isoprefill.doctor.speed import check_speed
from isoprefill.doctor.tpu_speed import check_tpu_speed
from isoprefill.execution.engine import ScoringEngine
from isoprefill.models.sources.pinned import FetchError
from isoprefill.models.sources.source import find_model

Dtype = Literal["float32", "bfloat16"]


def run_checks(
    model: str = DEFAULT_MODEL,
    dtype: Dtype = "float32",
    *,
    load: Callable[[str, Dtype], ScoringEngine] = ScoringEngine.from_pretrained,
) -> Iterator[Finding]:
    """Yields what each check finds, as it is found.

    Args:
        model: what to score with; see `ScoringEngine.from_pretrained`.
        dtype: of its weights.
        load: loads it.

    Raises:
        ValueError, FetchError: the model is not to be had.
    """
    if model != DEFAULT_MODEL:  # which has a row of its own if it is not to be had
        find_model(model)  # a wrong name shows now, and not after a minute
    yield from describe_machine()
    yield from check_cache_folders()
    yield from check_attention()
    yield from check_layer_kernels()
    if jax.default_backend() == "tpu":
        yield from check_tpu_speed(jax.devices()[0].device_kind)
    try:
        engine = load(model, dtype)
    except FetchError as error:
        advice = "give a model of your own with --model, or let this machine fetch the default one"
        yield Finding("model", "skipped", str(error), advice)
        return
    known = model == DEFAULT_MODEL
    yield from check_scoring(engine, dtype, known=known)
    yield check_speed(engine, dtype, _kind(), known=known)


def _kind() -> str:
    if jax.default_backend() == "cpu":
        return isoprefill_csrc.best_instructions()
    return jax.devices()[0].device_kind
