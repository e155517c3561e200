"""The TPU kernel in the TPU interpreter: what it visits, and how its schedule is cut and padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernel_interpreter
from csrc_layout import build
from isoprefill_csrc import StepField, StepFlag
from isoprefill_pallas import BlockSizes, KernelSchedule, kernel
from isoprefill_pallas.tile_attention import tile_attention
from kernel_packs import KV_HEADS, SIZES, compiled, inputs, layout_of, mask_of
from mask_definition import RequestSpec
from schedule_expansion import covered_pairs

SHAPE = (1, 64, "float32")


def test_schedule_in_parts_gives_the_same_bits():
    """Packs whose schedule exceeds scalar memory run in several calls."""
    layout = layout_of([RequestSpec(200, [20] * 40)])
    q, k, v = inputs(layout, SHAPE)
    whole = KernelSchedule.of(layout, sizes=SIZES)
    parts = KernelSchedule.of(layout, sizes=SIZES, smem_words=140)
    assert len(parts.parts) > 1
    attend = compiled(SIZES)
    for a, b in zip(
        attend(q, k, v, whole),
        attend(q, k, v, parts),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_schedule_that_is_cut_is_not_padded_back_over_scalar_memory():
    """With its usual capacity this one takes 404 words; as it is, the whole of it takes 148."""
    layout = layout_of([RequestSpec(300, [20] * 30)])
    (part,) = KernelSchedule.of(layout, sizes=SIZES, smem_words=200).parts
    assert part.steps.size + part.units.size + part.tiles.size <= 200


def test_a_tile_that_exceeds_scalar_memory_is_refused_wherever_it_is():
    """The last tiles of a prefix see most: a call with one of them would fail in the compiler, or on the chip."""
    sizes = BlockSizes(512, 512, 128, 128, 128, 2, 160, 0)
    layout = build([RequestSpec(8192, [])])
    message = r"the schedule of Q tile [1-9]\d* takes \d+ words; scalar memory holds 150"
    with pytest.raises(ValueError, match=message):
        KernelSchedule.of(layout, sizes=sizes, smem_words=150)


def test_columns_that_are_padded_already_give_the_same_bits():
    layout = build([RequestSpec(100, [20])])
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    q, k, v = inputs(layout, SHAPE)
    missing = ((0, schedule.padded_columns - layout.num_columns), (0, 0), (0, 0))
    assert missing[0][1] > 0
    padded = (jnp.pad(x, missing, constant_values=np.nan) for x in (k, v))
    attend = compiled(SIZES)
    for a, b in zip(attend(q, k, v, schedule), attend(q, *padded, schedule), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_tiles_that_ran_are_those_of_the_schedule(monkeypatch):
    """Work that the schedule does not list would be invisible in the cost model, and wasted."""
    ran = {"full": set(), "whole": [], "masked": [], "windows": set(), "anchors": []}

    def recorded(name, note):
        original = getattr(kernel.Step, name)

        def method(self, *args, **kwargs):
            note(self, *args, **kwargs)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kernel.Step, name, method)

    def extend(name, first):
        jax.debug.callback(
            lambda at: ran[name].extend(range(int(at), int(at) + SIZES.unit_group)), first
        )

    def note_anchors(step, group):
        extend("anchors", step.field(StepField.ANCHORS) + group * SIZES.unit_group)

    recorded(
        "unit_group", lambda step, first, masked: extend("masked" if masked else "whole", first)
    )
    recorded("find_anchors", note_anchors)
    recorded(
        "full_block", lambda step: jax.debug.callback(lambda s: ran["full"].add(int(s)), step.step)
    )
    recorded(
        "windows",
        lambda step, fresh: jax.debug.callback(lambda s: ran["windows"].add(int(s)), step.step),
    )
    grid = []
    layout = layout_of([RequestSpec(300, [20] * 5 + [500])])
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    (part,) = schedule.parts
    q, k, v = inputs(layout, SHAPE)
    parameters = kernel_interpreter.checking(
        grid_point_recorder=lambda token, point, core: (grid.append(tuple(map(int, point))), token)[
            1
        ]
    )
    out, _ = tile_attention(
        q,
        k,
        v,
        schedule.row_bounds,
        part,
        sizes=SIZES,
        scale=0.125,
        interpret=parameters,
    )
    jax.block_until_ready(out)
    jax.effects_barrier()
    flags = part.steps[StepField.FLAGS]

    def entries(first, end):
        """Of `units`, those between two fields of every step."""
        return [
            index
            for begin, stop in zip(part.steps[first], part.steps[end], strict=True)
            for index in range(begin, stop)
        ]

    assert sorted(grid) == [(h, s) for h in range(KV_HEADS) for s in range(part.num_steps)]
    assert ran["full"] == set(np.flatnonzero(flags & StepFlag.FULL))
    assert ran["windows"] == set(np.flatnonzero(flags & StepFlag.WINDOWS))
    assert ran["full"]
    assert ran["windows"]
    for stage, first, end in (
        ("anchors", StepField.ANCHORS, StepField.WHOLE_UNITS),
        ("whole", StepField.WHOLE_UNITS, StepField.MASKED_UNITS),
        ("masked", StepField.MASKED_UNITS, StepField.UNITS_END),
    ):
        assert sorted(ran[stage]) == sorted(entries(first, end) * KV_HEADS)
        assert ran[stage] or stage == "anchors"
    # And the schedule covers what the mask shows, once.
    arguments = SIZES.schedule_arguments()
    covered = covered_pairs(layout.tile_schedule(**arguments), arguments, layout.num_columns)
    np.testing.assert_array_equal(covered, mask_of(layout))
