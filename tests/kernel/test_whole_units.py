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
from isoprefill_pallas.unit_checks import check_units
from kernel_packs import check_close, compiled, inputs, layout_of, mask_of
from mask_definition import RequestSpec
from schedule_expansion import expand

SHAPE = (2, 64, "float32")
# Full steps would take the place of units.
SIZES = dataclasses.replace(kernel_packs.SIZES, block_q=512, block_kv=512, full_keys=4096)
# Each has whole and masked units, of one row block and in one step.
PACKS = {
    "the triangle of a prefix": ([RequestSpec(700, [])], "far"),
    "an item longer than windows": ([RequestSpec(100, [10, 600, 10])], "near"),
    "items behind two prefixes": ([RequestSpec(300, [20] * 8), RequestSpec(280, [20] * 8)], "far"),
    "padding in the row block": ([RequestSpec(450, [30] * 3)], "far"),
    "columns that begin off a granule": ([RequestSpec(13, [5]), RequestSpec(500, [7, 150])], "far"),
}


def tiles_of(layout):
    arguments = SIZES.schedule_arguments()
    return expand(layout.tile_schedule(**arguments), arguments)


def units_of(layout):
    tiles = tiles_of(layout)
    return ([tile for tile in tiles if tile.kind == f"{kind} unit"] for kind in ("whole", "masked"))


@pytest.mark.parametrize(
    ("case", "online"),
    [*((case, None) for case in PACKS), ("an item longer than windows", True)],
)
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


@pytest.mark.parametrize(
    ("case", "poison"), [*zip(PACKS, [np.nan, np.inf, -np.inf, np.nan, np.inf], strict=True)]
)
def test_what_is_not_finite_beside_a_whole_unit_reaches_no_row_of_it(case, poison):
    """In q and k of what the rows do not see it changes no bit of them, and in v none where it lies behind them."""
    requests, _ = PACKS[case]
    layout = layout_of(requests)
    whole, _ = units_of(layout)
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    mask = mask_of(layout)
    # The rows of a whole unit, all columns that none of them sees, and those that come after what they see.
    rows = np.arange(whole[0].rows.start, whole[0].rows.stop)
    rows = rows[mask[rows].any(axis=1)]
    hidden = np.flatnonzero(~mask[rows].any(axis=0) & mask.any(axis=0))
    behind = hidden[hidden > np.flatnonzero(mask[rows].any(axis=0)).max()]
    assert behind.size
    q, k, v = inputs(layout, SHAPE)
    attend = compiled(SIZES)
    before = attend(q, k, v, schedule)
    others = np.setdiff1d(np.arange(layout.num_rows), rows)
    changed = attend(
        q.at[others].set(poison), k.at[hidden].set(poison), v.at[behind].set(poison), schedule
    )
    for one, two in zip(before, changed, strict=True):
        np.testing.assert_array_equal(one[rows], two[rows])
    seen = mask[:, behind].any(axis=1)
    assert not np.isfinite(np.asarray(changed[0])[seen]).any(), "nothing was planted"


@pytest.mark.parametrize(
    ("case", "columns"),
    [("items behind two prefixes", (128, 310)), ("columns that begin off a granule", (660,))],
)
def test_nan_in_v_reaches_only_rows_whose_windows_and_masked_units_hold_it(case, columns):
    """Also where it lies before them: other tests ask the schedule how far it reaches; the kernel must obey."""
    requests, _ = PACKS[case]
    layout = layout_of(requests)
    mask = mask_of(layout)
    reached = mask.copy()
    for tile in tiles_of(layout):
        if tile.kind != "whole unit":
            first = tile.unit_columns.start if tile.unit_columns else tile.columns.start
            reached[tile.rows, first : tile.columns.stop] = True
    q, k, v = inputs(layout, SHAPE)
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    before = compiled(SIZES)(q, k, v, schedule)
    whole, _ = units_of(layout)
    of_units = np.unique([np.arange(tile.rows.start, tile.rows.start + 128) for tile in whole])
    for column in columns:
        after = compiled(SIZES)(q, k, v.at[column].set(np.nan), schedule)
        clean = ~reached[:, column]
        assert clean[of_units].any(), "no row of a whole unit is looked at"
        assert np.isnan(np.asarray(after[0])[mask[:, column]]).all()
        for one, two in zip(before, after, strict=True):
            np.testing.assert_array_equal(one[clean], two[clean])


def test_neighbours_of_an_item_behind_whole_units_do_not_change_it():
    """Other values change no bit of it, other lengths and another order only how its sums are rounded."""
    prefix, item, lens = 400, 30, [20, 7, 33, 150]

    def scored(kept, lens, seed):
        """Output and log-sum-exp of the prefix and of the item, which comes after `kept` others."""
        layout = layout_of([RequestSpec(prefix, [*lens[:kept], item, *lens[kept:]])])
        whole, _ = units_of(layout)
        first = prefix + sum(lens[:kept])
        rows = np.r_[0:prefix, first : first + item]
        assert any(tile.rows.stop > first and tile.rows.start < first + item for tile in whole)
        own = inputs(layout_of([RequestSpec(prefix, [item])]), SHAPE)
        arrays = (
            x.at[rows].set(mine[: rows.size])
            for x, mine in zip(inputs(layout, SHAPE, seed), own, strict=True)
        )
        found = compiled(SIZES)(*arrays, KernelSchedule.of(layout, sizes=SIZES))
        return [np.asarray(of)[rows] for of in found]

    before = scored(2, lens, 1)
    for one, two in zip(before, scored(2, lens, 2), strict=True):
        np.testing.assert_array_equal(one, two)
    for other in (scored(2, [7, 20, 150, 33], 1), scored(0, lens, 1), scored(2, [60, 3], 1)):
        for one, two in zip(before, other, strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6, rtol=2e-6)


def part_of(requests):
    layout = layout_of(requests)
    schedule = KernelSchedule.of(layout, sizes=SIZES)
    (part,) = schedule.parts
    return layout, schedule, part


def check(part, schedule):
    check_units(part.steps, part.units, SIZES, schedule.row_bounds)


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
    layout, schedule, part = part_of(PACKS["items behind two prefixes"][0])
    check(part, schedule)
    steps = part.steps.copy()
    whole, masked, end = (
        steps[of] for of in (StepField.WHOLE_UNITS, StepField.MASKED_UNITS, StepField.UNITS_END)
    )
    (step, *_) = np.flatnonzero((end >= masked + SIZES.unit_group) & (masked > whole))
    moved = part.units[masked[step] : masked[step] + SIZES.unit_group]
    of = moved >> UnitBits.INTERVAL_SHIFT & UnitBits.INTERVAL_MASK
    assert np.all(of != UnitInterval.NOTHING), "these are masked units, not fillers"
    steps[StepField.MASKED_UNITS, step] += SIZES.unit_group
    wrong = dataclasses.replace(part, steps=steps)
    with pytest.raises(ValueError, match=r"unit \d+ must see all of its columns to be whole, \d+"):
        check(wrong, schedule)
    # And it matters: unmasked, the kernel gives other numbers.
    arrays = inputs(layout, SHAPE)
    check_close(*compiled(SIZES)(*arrays, schedule), *arrays, layout)
    faulty = dataclasses.replace(schedule, parts=(wrong,))
    out, lse = compiled(SIZES)(*(jnp.nan_to_num(x) for x in arrays), faulty)
    assert np.isfinite(out).all()
    with pytest.raises(AssertionError):
        check_close(out, lse, *arrays, layout)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_block": 0}, "its rows, from 0 on, all see 0 to 0"),
        ({"row_block": 4}, r"the row block of unit \d+ must be from 0 to 3, got 4"),
        ({"row_block": 255}, r"the row block of unit \d+ must be from 0 to 3, got 255"),
        ({"key": 16}, r"whole, 256 to 384; its rows, from 256 on, all see 0 to 256"),
        (
            {"key": 8},
            r"units \d+ and \d+ are of the same rows and must not overlap; .* 128 and 128",
        ),
        ({"interval": UnitInterval.NEAR}, r"whole, 0 to 128; .* all see 256 to"),
        ({"interval": UnitInterval.NOTHING}, r"unit \d+ must be of far or near columns"),
    ],
)
def test_a_whole_unit_moved_to_other_rows_or_columns_is_refused(fields, message):
    """Rows before it see less, columns behind it are not seen by all, others are there already, near are not far."""
    _, schedule, part = part_of([RequestSpec(700, [])])
    check(part, schedule)
    first = int(part.steps[StepField.WHOLE_UNITS, 0])
    of_row_block = part.units[first:] & UnitBits.ROW_BLOCK_MASK == 2
    index = first + int(of_row_block.argmax())
    with pytest.raises(ValueError, match=message):
        check(changed(part, index, **fields), schedule)


def test_a_whole_unit_of_columns_that_an_earlier_step_has_covered_is_refused():
    """Blocks overlap at the end of the columns; only masked units leave out what was added before."""
    _, schedule, part = part_of([RequestSpec(700, [])])
    steps = part.steps.copy()
    steps[StepField.KEY_RANGE] += 16  # key_begin
    with pytest.raises(ValueError, match="all see 16 to"):
        check(dataclasses.replace(part, steps=steps), schedule)


def test_masked_units_of_one_step_that_overlap_are_refused():
    """What both hold would count twice in the softmax."""
    _, schedule, part = part_of([RequestSpec(300, [20] * 8), RequestSpec(280, [20] * 8)])
    check(part, schedule)
    (index,) = part.steps[StepField.MASKED_UNITS, :1]
    units = part.units.copy()
    units[index + 1] = units[index]
    with pytest.raises(ValueError, match=rf"units {index} and {index + 1} are of the same rows"):
        check(dataclasses.replace(part, units=units), schedule)
