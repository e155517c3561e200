"""What the TPU kernel does not take is refused, by name, before anything is traced."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from csrc_layout import build
from isoprefill_csrc import StepField, TileField
from isoprefill_pallas import KernelSchedule, attend
from isoprefill_pallas.schedule import check_blocks
from kernel_packs import SIZES, inputs, layout_of
from mask_definition import RequestSpec

PADDED = 288  # columns that the kernel wants at least: those of the windows of a Q tile


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 96, "float32"), "head_dim .* got 96"),
        ((17, 64, "float32"), "1 to 16 query heads per KV head, got 34"),
        ((1, 64, "float16"), "got float16"),
    ],
    ids=str,
)
def test_unsupported_shapes_are_refused_before_tracing(shape, message, monkeypatch):
    """An error from deep inside the compiler names neither the argument nor the limit."""
    monkeypatch.setattr("isoprefill_pallas.op.tile_attention", None)  # tracing would fail otherwise
    layout = layout_of([RequestSpec(10, [3])])
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    with pytest.raises(ValueError, match=message):
        attend(*inputs(layout, shape), schedule, scale=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (13, 2, 64, 1)}, "q must have 3 dimensions"),
        ({"q": (12, 2, 64)}, r"q must have the schedule's 13 rows, got shape \(12, 2, 64\)"),
        ({"k": (12, 2, 64)}, r"k must have the schedule's 13 columns, got shape \(12, 2, 64\)"),
        ({"v": (12, 2, 64)}, r"v must have the schedule's 13 columns, got shape \(12, 2, 64\)"),
        ({"k": (14, 2, 64), "v": (14, 2, 64)}, "k must have the schedule's 13 columns"),
        ({"k": (PADDED, 2, 64)}, f"v must have the schedule's {PADDED} columns"),
        ({"k": (13, 2, 128)}, r"k must have q's head_dim 64, got shape \(13, 2, 128\)"),
        ({"v": (13, 2, 128)}, r"v must have q's head_dim 64, got shape \(13, 2, 128\)"),
        ({"v": (13, 1, 64)}, r"v must have k's shape \(13, 2, 64\), got \(13, 1, 64\)"),
        ({"k": (13, 0, 64), "v": (13, 0, 64)}, "KV heads must be at least 1, got 0"),
        ({"q": (13, 0, 64)}, "query heads must be at least 1, got 0"),
        ({"q": (13, 3, 64)}, "query heads must be a multiple of the 2 KV heads, got 3"),
        (dict.fromkeys("qkv", (13, 2, 0)), "head_dim must be at least 1, got 0"),
        ({"dtype": {"k": "bfloat16"}}, "k must have q's dtype float32, got bfloat16"),
        ({"dtype": {"v": "bfloat16"}}, "v must have q's dtype float32, got bfloat16"),
        ({"soft_cap": 0.0}, "soft_cap must be from 1e-30 to 1e[+]30, got 0.0"),
        ({"soft_cap": -2.0}, "soft_cap must be .* got -2.0"),
        ({"soft_cap": np.inf}, "soft_cap must be .* got inf"),
        ({"soft_cap": np.nan}, "soft_cap must be .* got nan"),
    ],
    ids=str,
)
def test_operands_that_do_not_fit_are_refused_before_tracing(change, message, monkeypatch):
    """Missing columns would be padded with zeros and seen, and heads beyond the arrays clamped to others."""
    monkeypatch.setattr("isoprefill_pallas.op.tile_attention", None)  # tracing would fail otherwise
    schedule = KernelSchedule.of(build([RequestSpec(10, [3])]), sizes=SIZES)
    assert schedule.padded_columns == PADDED
    dtypes = change.get("dtype", {})
    arrays = [
        jnp.zeros(change.get(name, (13, 2, 64)), dtypes.get(name, "float32")) for name in "qkv"
    ]
    with pytest.raises(ValueError, match=message):
        attend(*arrays, schedule, scale=1.0, soft_cap=change.get("soft_cap"))


@pytest.mark.parametrize(
    ("array", "field", "beyond", "message"),
    [
        ("steps", StepField.Q_TILE, 2, "the Q tile of a step must be from 0 to 1, got 2"),
        (
            "steps",
            StepField.KEY_START,
            65,
            "the first column of a step must be from 0 to 64, got 65",
        ),
        ("tiles", TileField.LOCAL_START, 33, "first column of windows .* from 0 to 32, got 33"),
    ],
)
def test_a_block_that_leaves_its_array_is_refused(array, field, beyond, message):
    """On a TPU the kernel's copies are not checked: it would read, or overwrite, what lies beside the array."""
    layout = layout_of([RequestSpec(200, [60] * 2)], 320)
    schedule = KernelSchedule.of(layout, sizes=SIZES, padded=False)
    (part,), columns = schedule.parts, schedule.padded_columns
    assert (columns, part.num_rows, SIZES.block_kv, SIZES.local_keys) == (320, 320, 256, 288)
    check_blocks(part, SIZES, columns)
    for wrong in (beyond, -1):
        numbers = getattr(part, array).copy()
        numbers[(field, -1) if array == "steps" else (-1, field)] = wrong
        with pytest.raises(ValueError, match=message.replace(f"got {beyond}", f"got {wrong}")):
            check_blocks(dataclasses.replace(part, **{array: numbers}), SIZES, columns)
