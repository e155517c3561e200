"""Block sizes: which are chosen for a pack. Wrong ones do not compile on a chip that no test has."""

import itertools
import json
import pathlib
import warnings

import pytest

import isoprefill_pallas
from isoprefill_pallas import BlockSizes, Heads, KernelSchedule, build_layout
from isoprefill_pallas.block_sizes import choose_block_sizes
from isoprefill_pallas.chips import CHIPS
from isoprefill_pallas.heads import DTYPES, HEAD_DIMS

FILES = sorted((pathlib.Path(isoprefill_pallas.__file__).parent / "tuned").glob("*.json"))
TUNED = [(file.stem, entry) for file in FILES for entry in json.loads(file.read_text())["entries"]]


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
        KernelSchedule.of(build_layout(prefix_lens=[prefix], item_lens=[[20]]), sizes=sizes)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_q": 300}, "block_q is 300; it must be a multiple of 256 from 256 to 65536"),
        ({"block_kv": 100}, "block_kv is 100; it must be a multiple of 256 from 256 to 32640"),
        ({"chunk_kv": 64}, "chunk_kv is 64; it must be a multiple of 128 from 128"),
        ({"chunk_kv": 768}, "chunk_kv is 768; it must divide block_kv = 1024"),
        ({"unit_group": 0}, "unit_group is 0; it must be from 1 to 64"),
        ({"full_keys": -1}, "full_keys is -1; it must be from 0 to 2147483647"),
    ],
    ids=str,
)
def test_sizes_that_the_kernel_cannot_have_are_refused_by_name(change, message):
    """They would fail in the compiler, or on the chip."""
    sizes = {"block_q": 1024, "block_kv": 1024, "chunk_kv": 512, "unit_q": 256, "unit_kv": 256}
    sizes |= {"unit_group": 4, "window_keys": 160, "full_keys": 512}
    with pytest.raises(ValueError, match=message):
        BlockSizes(**sizes | change)


def test_a_schedule_chooses_sizes_by_heads_chip_and_lengths():
    """A consumer that has to choose them itself would take slow ones, or ones that do not compile."""
    layout, heads = (
        build_layout(prefix_lens=[2000], item_lens=[[20] * 50]),
        Heads(16, 8, 128, "bfloat16"),
    )
    chosen = KernelSchedule.of(layout, heads, chip="v6e")
    assert chosen.sizes == choose(layout.row_intervals)
    rows = layout.row_intervals
    assert (
        KernelSchedule.of_intervals(rows, layout.num_columns, heads, chip="v6e").sizes
        == chosen.sizes
    )
    for arguments, message in (
        ((), "needs heads or sizes, got neither"),
        ((heads,), "chip must be one of .* got 'v99'"),
    ):
        with pytest.raises(ValueError, match=message):
            KernelSchedule.of(layout, *arguments, chip="v99")
