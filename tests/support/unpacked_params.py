"""Weights as devices other than a CPU have them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isoprefill import ScoringEngine
from isoprefill.execution import model_runner
from isoprefill.models.pretrained import Pretrained
from isoprefill.models.weights.packed_weights import PackedWeights, unpack
from isoprefill.models.weights.params import Params


def unpacked(params: Params) -> Params:
    """Returns weights as plain arrays, as devices other than a CPU have them."""

    def plain(weights: Any) -> Any:
        array = unpack(weights) if isinstance(weights, PackedWeights) else np.asarray(weights)
        return jnp.asarray(array.view(jnp.bfloat16) if array.dtype == np.uint16 else array)

    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights))


def unpacked_engine(
    model: Pretrained, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> ScoringEngine:
    """Returns an engine whose weights are neither packed nor stored as bits, also on a CPU."""
    with monkeypatch.context() as patch:
        patch.setattr(model_runner, "as_stored", lambda params: params)
        plain = dataclasses.replace(model, params=unpacked(model.params))
        return ScoringEngine(plain, **options)
