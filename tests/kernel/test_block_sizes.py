"""Block sizes: which are chosen for a pack. Wrong ones do not compile on a chip that no test has."""

import itertools
import json
import pathlib
import warnings

import pytest

import isoprefill_pallas
from isoprefill_csrc import build_layout
from isoprefill_pallas.block_sizes import BlockSizes, choose_block_sizes
from isoprefill_pallas.chips import CHIPS
from isoprefill_pallas.heads import DTYPES, HEAD_DIMS, Heads

TUNED = [
    (chip, entry)
    for chip in CHIPS
    for entry in json.loads(
        (pathlib.Path(isoprefill_pallas.__file__).parent / "tuned" / f"{chip}.json").read_text()
    )["entries"]
]


def intervals(prefix_lens, items=10):
    return build_layout(
        prefix_lens=prefix_lens, item_lens=[[20] * items] * len(prefix_lens)
    ).row_intervals


def choose(row_intervals, chip="v6e", heads=Heads(16, 8, 128, "bfloat16")):  # noqa: B008
    return choose_block_sizes(chip, heads, row_intervals, row_intervals.shape[1])


@pytest.mark.parametrize(
    ("chip", "entry"),
    TUNED,
    ids=[f"{c}-{e['head_dim']}-{e['dtype']}-{e['prefixes']}" for c, e in TUNED],
)
@pytest.mark.parametrize("groups", [1, 2, 3, 8, 16])
def test_tuned_sizes_fit_packs_of_every_size(chip, entry, groups):
    """Sizes that do not divide each other are refused where a pack is smaller than the tuned blocks."""
    prefix = 20 if entry["prefixes"] == "short" else entry["sizes"]["full_keys"]
    heads = Heads(groups, 1, entry["head_dim"], entry["dtype"])
    for requests in (1, 2, 40):
        rows = intervals([prefix] * requests, items=3)
        sizes = choose(rows, chip, heads)
        build_layout(prefix_lens=[prefix], item_lens=[[20]]).tile_schedule(
            **sizes.schedule_arguments()
        )
        assert (sizes.full_keys == 0) == (entry["prefixes"] == "short")
        assert sizes.unit_group * sizes.unit_q * groups <= max(
            entry["sizes"]["unit_group"] * entry["sizes"]["unit_stacked_rows"], 128 * groups
        )


def test_prefixes_too_short_for_a_full_step_get_sizes_without_one():
    """The kernel of long prefixes takes almost twice as long on packs of many short requests."""
    assert choose(intervals([300] * 32)).full_keys == 0
    assert choose(intervals([2000])).full_keys > 0
    assert choose(intervals([300] * 31 + [2000])).full_keys > 0


@pytest.mark.parametrize("chip", CHIPS)
def test_every_width_of_head_and_dtype_is_tuned(chip):
    """Untuned sizes cost up to a third more cycles (P on tpu7x, float32)."""
    tuned = [
        (entry["head_dim"], entry["dtype"], entry["prefixes"])
        for known, entry in TUNED
        if known == chip
    ]
    assert sorted(tuned) == sorted(itertools.product(HEAD_DIMS, DTYPES, ("long", "short")))


def test_sizes_that_nobody_tuned_are_taken_with_one_warning():
    """Silence would hide a slow kernel; a warning per call would hide everything else."""
    rows = intervals([2000])
    with pytest.warns(UserWarning, match="no tuned block sizes for head_dim 64, float32 on v99"):
        assert isinstance(choose(rows, "v99", Heads(1, 1, 64, "float32")), BlockSizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose(rows, "v99", Heads(1, 1, 64, "float32"))
        choose(rows, None, Heads(1, 1, 64, "float32"))
