"""The table of back ends: every one has the shape that the operation and the layout expect."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isoprefill.attention
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention import AttentionHeads
from isoprefill.attention.backend import AttentionBackend
from isoprefill.attention.backends import BACKENDS, find_backend
from isoprefill.attention.layout import with_schedules

HEADS = AttentionHeads(4, 2, 64, "float32")


def test_every_folder_is_a_back_end_and_every_back_end_a_folder():
    (room,) = map(pathlib.Path, isoprefill.attention.__path__)
    folders = {file.parent.name for file in room.glob("*/backend.py")}
    assert folders == set(BACKENDS)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_back_end_keeps_the_interface(name):
    """What it has of its own, such as a schedule, is behind the same calls."""
    backend = find_backend(name)
    assert isinstance(backend, AttentionBackend)
    assert backend.name == name
    backend.check(HEADS)
    layouts = [PackedLayout.from_lengths(100, lens, pad_to=256) for lens in ([20] * 3, [9, 50])]
    scheduled = with_schedules(layouts, name, HEADS)
    assert {one.scheduled_for for one in scheduled} == {name}
    assert all((one.schedule is None) == (backend.schedule is None) for one in scheduled)
    assert len({jax.tree.structure(one) for one in scheduled}) == 1
    for before, after in zip(layouts, scheduled, strict=True):
        np.testing.assert_array_equal(before.readout_rows, after.readout_rows)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_option_that_a_back_end_does_not_have_is_refused(name):
    """A misspelt one would leave the default in place."""
    with pytest.raises(ValueError, match=f"the '{name}' back end does not take block, got 8"):
        PackedLayout.from_lengths(5, [3]).with_schedule(name, heads=HEADS, block=8)


def test_auto_is_no_back_end():
    with pytest.raises(ValueError, match=r"backend must be one of .*'dense'.* got 'auto'"):
        find_backend("auto")


@pytest.mark.parametrize("name", BACKENDS)
def test_sinks_join_the_denominator(name):
    """As a column that every row sees, whose score is the sink and whose value is 0. In a window, too."""
    layout = PackedLayout.from_lengths(30, [5, 12], pad_to=64)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((64, heads, 64), np.float32) for heads in (4, 2, 2))
    sinks = np.asarray([-1.0, 0.5, 30.0, -100.0], np.float32)
    for one in (layout, layout.with_window(9))[name == "pallas" :]:  # whose interpreter is slow
        mask = one.dense_mask()
        wide = [np.asarray(array, np.float64) for array in (q, k, v)]
        scores = np.einsum("thd,shd->hts", wide[0], wide[1].repeat(2, axis=1)) / 8
        weights = np.exp(np.where(mask, scores, -np.inf))
        total = weights.sum(axis=-1, keepdims=True)
        shares = weights / (total + np.exp(np.float64(sinks))[:, None, None])
        expected = np.einsum("hts,shd->thd", shares, wide[2].repeat(2, axis=1))
        out, lse = multi_item_attention(
            *map(jnp.asarray, (q, k, v)), one, backend=name, sinks=sinks, return_lse=True
        )
        np.testing.assert_allclose(out, expected, atol=1e-5)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(lse, np.log(total[..., 0]).T, atol=1e-5)
