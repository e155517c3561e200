"""Whole units of the TPU kernel, which apply no mask: right beside masked ones, isolated, and refused where wrong.

If one of these fails, rows see columns that they must not, or lose some that they see.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import kernel_packs
from isoprefill_csrc import StepField, UnitBits, UnitInterval
from isoprefill_pallas import KernelSchedule
from isoprefill_pallas.schedule import check_whole_units
from kernel_packs import check_close, compiled, inputs, layout_of, mask_of
from mask_definition import RequestSpec
from schedule_expansion import expand

SHAPE = (2, 64, "float32")
SIZES = dataclasses.replace(kernel_packs.SIZES, block_q=512, block_kv=512, full_keys=0)
# Each has whole and masked units, of one row block and in one step.
PACKS = {
    "the triangle of a prefix": ([RequestSpec(700, [])], "far"),
    "an item longer than windows": ([RequestSpec(100, [10, 600, 10])], "near"),
    "items behind two prefixes": ([RequestSpec(300, [20] * 8), RequestSpec(280, [20] * 8)], "far"),
    "padding in the row block": ([RequestSpec(450, [30] * 3)], "far"),
    "columns that begin off a granule": ([RequestSpec(13, [5]), RequestSpec(500, [7])], "far"),
}


def schedule_of(requests):
    layout = layout_of(requests)
    return layout, KernelSchedule.of(layout, sizes=SIZES, padded=False)


def units_of(layout):
    arguments = SIZES.schedule_arguments()
    tiles = expand(layout.tile_schedule(**arguments), arguments)
    whole, masked = (
        [tile for tile in tiles if tile.kind == kind] for kind in ("whole unit", "masked unit")
    )
    return whole, masked


@pytest.mark.parametrize("online", [False, True], ids=["anchored", "running-maximum"])
@pytest.mark.parametrize("case", PACKS)
def test_a_whole_unit_beside_a_masked_one_of_the_same_rows(case, online):
    """Both add to the same rows: one that took the other's columns, or masked them, would show in the sum."""
    requests, interval = PACKS[case]
    layout = layout_of(requests)
    whole, masked = units_of(layout)
    shared = {tile.rows.start for tile in whole} & {tile.rows.start for tile in masked}
    assert shared
    assert {("far", "near")[tile.interval] for tile in whole} >= {interval}
    arrays = inputs(layout, SHAPE)
    out, lse = compiled(SIZES, online=online)(*arrays, KernelSchedule.of(layout, sizes=SIZES))
    check_close(out, lse, *arrays, layout)


@pytest.mark.parametrize("case", PACKS)
def test_nan_beside_a_whole_unit_reaches_only_rows_that_compute_with_it(case):
    """NaN in q and k of rows that are not seen changes no bit; in v none of a row whose masked tiles do not hold it."""
    requests, _ = PACKS[case]
    layout = layout_of(requests)
    whole, _ = units_of(layout)
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    mask = mask_of(layout)
    tile = whole[0]
    # The rows of a whole unit, and all columns that none of them sees.
    rows = np.arange(tile.rows.start, tile.rows.stop)
    rows = rows[mask[rows].any(axis=1)]
    hidden = np.flatnonzero(~mask[rows].any(axis=0) & mask.any(axis=0))
    assert hidden.size
    reached = mask.copy()
    arguments = SIZES.schedule_arguments()
    for other in expand(layout.tile_schedule(**arguments), arguments):
        columns = other.unit_columns or other.columns
        if other.kind != "whole unit":
            reached[other.rows, columns] = True
    q, k, v = inputs(layout, SHAPE)
    attend = compiled(SIZES)
    before = attend(q, k, v, schedule)
    others = np.setdiff1d(np.arange(layout.num_rows), rows)
    after = attend(q.at[others].set(np.nan), k.at[hidden].set(np.nan), v, schedule)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[rows], two[rows])
    after = attend(q, k, v.at[hidden].set(np.nan), schedule)
    clean = ~reached[:, hidden].any(axis=1)
    seen = mask[:, hidden].any(axis=1)
    assert seen.any()
    assert np.isnan(np.asarray(after[0])[seen]).any(axis=(1, 2)).all()
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[clean], two[clean])


def changed(part, index, **fields):
    """The part with other fields of a unit."""
    units = part.units.copy()
    for name, value in fields.items():
        shift, bits = {
            "row_block": (0, UnitBits.ROW_BLOCK_MASK),
            "key": (UnitBits.KEY_SHIFT, UnitBits.KEY_MASK),
            "interval": (UnitBits.INTERVAL_SHIFT, UnitBits.INTERVAL_MASK),
        }[name]
        units[index] = units[index] & ~(bits << shift) | value << shift
    return dataclasses.replace(part, units=units)


def test_a_unit_called_whole_that_is_not_is_refused():
    """The planted fault: the kernel would apply no mask to it."""
    layout, schedule = schedule_of([RequestSpec(700, [])])
    (part,) = schedule.parts
    check_whole_units(part, SIZES, schedule.row_bounds)
    steps = part.steps.copy()
    (step, *_) = np.flatnonzero(steps[StepField.MASKED_UNITS] > steps[StepField.WHOLE_UNITS])
    steps[StepField.MASKED_UNITS, step] += SIZES.unit_group
    wrong = dataclasses.replace(part, steps=steps)
    with pytest.raises(ValueError, match=r"unit \d+ must see all of its columns to be whole, \d+"):
        check_whole_units(wrong, SIZES, schedule.row_bounds)
    # And it matters: unmasked, the kernel gives other numbers.
    arrays = inputs(layout, SHAPE)
    faulty = dataclasses.replace(schedule, parts=(wrong,))
    out, lse = compiled(SIZES, online=False)(*arrays_padded(arrays, schedule), faulty)
    with pytest.raises(AssertionError):
        check_close(out, lse, *arrays, layout)


def arrays_padded(arrays, schedule):
    q, k, v = arrays
    missing = ((0, schedule.padded_columns - len(k)), (0, 0), (0, 0))
    return q, jnp.pad(k, missing), jnp.pad(v, missing)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_block": 0}, "its rows, from 0 on, all see 0 to 0"),
        ({"key": 16}, r"whole, 256 to 384; its rows, from 256 on, all see 0 to 256"),
        ({"interval": UnitInterval.NEAR}, r"whole, 0 to 128; .* all see 256 to"),
        ({"interval": UnitInterval.NOTHING}, "must see all of its columns to be whole"),
    ],
)
def test_a_whole_unit_moved_to_other_rows_or_columns_is_refused(fields, message):
    """Rows before it see less, columns behind it are not seen by all, near columns are not far ones."""
    _, schedule = schedule_of([RequestSpec(700, [])])
    (part,) = schedule.parts
    first = int(part.steps[StepField.WHOLE_UNITS, 0])
    of_row_block = part.units[first:] & UnitBits.ROW_BLOCK_MASK == 2
    index = first + int(of_row_block.argmax())
    with pytest.raises(ValueError, match=message):
        check_whole_units(changed(part, index, **fields), SIZES, schedule.row_bounds)


def test_a_whole_unit_of_columns_that_an_earlier_step_has_covered_is_refused():
    """Blocks overlap at the end of the columns; only masked units leave out what was added before."""
    _, schedule = schedule_of([RequestSpec(700, [])])
    (part,) = schedule.parts
    steps = part.steps.copy()
    steps[StepField.KEY_RANGE] += 16  # key_begin
    with pytest.raises(ValueError, match="all see 16 to"):
        check_whole_units(dataclasses.replace(part, steps=steps), SIZES, schedule.row_bounds)
