"""What devices send each other in the count of a whole compiled program, which is HLO as the TPU's compiler leaves it.

If one of these fails, `bench_tpu --step --tensor` prints numbers that mean nothing.
"""

import pytest
from jaxlib import _hlo

from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.optimised_program import OptimisedProgram
from isoprefill_tpu_lab.step_cost import StepCounter

CHIP = FIGURES["v6e"]
BANDWIDTH, PEAK = CHIP.hbm_bytes_per_second, CHIP.peak_flops
RING = 2 * CHIP.link_bytes_per_second  # a ring of chips sends both ways
MATRIX = "bf16[4096,1024]{1,0:T(8,128)(2,1)}"
BYTES = 4096 * 1024 * 2
GROUPS = "replica_groups={{0,1,2,3}}"
SUM = f"{GROUPS}, to_apply=%add"
ADD = """%add (left: f32[], right: f32[]) -> f32[] {
  %left = f32[] parameter(0)
  %right = f32[] parameter(1)
  ROOT %both = f32[] add(%left, %right)
}
"""


def rows(count: int, space: str = "") -> str:
    """So many rows of 1024 in float32."""
    return f"f32[{count},1024]{{1,0:T(8,128){space}}}"


def program(result: str, *lines: str, called: str = "", given: str = MATRIX) -> str:
    """A program of these lines, of which the last is the result; of a matrix %x."""
    body = "\n".join(f"  {line}" for line in (*lines[:-1], f"ROOT {lines[-1]}"))
    return f"""HloModule jit_step, is_scheduled=true

{ADD}
{called}
ENTRY %main (x: {given.split("{")[0]}) -> {result.split("{")[0]} {{
  %x = {given} parameter(0)
{body}
}}
"""


def count(text: str) -> dict:
    """Counts a program that XLA itself can read."""
    _hlo.hlo_module_from_text(text)
    return counted(text)


def counted(text: str) -> dict:
    counter = StepCounter(
        program=OptimisedProgram.parse(text), bundles={}, kernels={}, loop_times={}, chip=CHIP
    )
    return {cost.name: cost for cost in counter.count()}


@pytest.mark.parametrize(
    ("kind", "groups", "of", "sent"),
    [
        ("all-reduce", SUM, 4096, 2 * 3 / 4),
        ("all-gather", "replica_groups=[1,4]<=[4], dimensions={0}", 1024, 3 / 4),
        ("reduce-scatter", f"{SUM}, dimensions={{0}}", 16384, 3),
        ("all-to-all", "replica_groups=[2,2]<=[4], dimensions={0}", 4096, 1 / 2),
        ("collective-permute", "source_target_pairs={{0,1},{1,0}}", 4096, 1),
    ],
)
def test_a_collective_takes_the_bytes_that_each_device_sends(kind, groups, of, sent):
    """And of HBM, what it reads and writes."""
    given = MATRIX.replace("4096", str(of))
    cost = count(program(MATRIX, f"%sum = {MATRIX} {kind}(%x), {groups}", given=given))["sum"]
    assert cost.link_bytes == sent * BYTES
    assert cost.hbm_bytes == BYTES + of * 1024 * 2
    assert cost.seconds == cost.link_seconds == pytest.approx(cost.link_bytes / RING)
    assert cost.part == "collectives"


def scattering(then: str, root: str) -> str:
    """A fusion as a sum over the devices is in a compiled program: 12,288 rows, padded, of which each keeps a part."""
    return f"""%fused_sum (p: f32[12288,1024]) -> {root.split("{")[0]} {{
  %p = {rows(12288)} parameter(0)
  %zero = f32[] constant(0)
  %pad = {rows(12544)} pad(%p, %zero), padding=0_256x0_0
  %sum = {rows(12544)} all-reduce(%pad), channel_id=2, {SUM}, use_global_device_ids=true
  %device = u32[] partition-id()
  %share = u32[] constant(3136)
  %at = u32[] multiply(%device, %share)
  %none = u32[] constant(0)
  {then}
}}
"""


def cost_of_fusion(then: str, kept: int, space: str = "S(1)"):
    """A fusion that keeps so many rows, by default in VMEM."""
    root = rows(kept, space)
    fusion = f"%fusion = {root} fusion(%x), kind=kCustom, calls=%fused_sum"
    return count(program(root, fusion, called=scattering(then, root), given=rows(12288)))["fusion"]


SLICE = "dynamic-slice({}, %at, %none), dynamic_slice_sizes={{{},1024}}"
WHOLE = 12544 * 1024 * 4


def test_a_sum_of_which_each_device_keeps_its_share_is_a_reduce_scatter():
    """It sends each row once, those of the padding too: missed, it would cost nothing."""
    cost = cost_of_fusion(f"ROOT %kept = {rows(3136, 'S(1)')} {SLICE.format('%sum', 3136)}", 3136)
    assert cost.link_bytes == 3 * WHOLE // 4
    assert cost.seconds == cost.link_seconds == pytest.approx(cost.link_bytes / RING)
    assert cost.hbm_bytes == 12288 * 1024 * 4  # what it keeps is in VMEM
    assert cost.part == "collectives"


def test_the_share_is_followed_through_casts():
    """Rounded before it is sliced, it is sent as it was summed."""
    half = "bf16[{},1024]{{1,0:T(8,128)(2,1)}}"
    then = f"""%rounded = {half.format(12544)} convert(%sum)
  ROOT %kept = {half.format(3136)} {SLICE.format("%rounded", 3136)}"""
    root = half.format(3136)
    fusion = f"%fusion = {root} fusion(%x), kind=kCustom, calls=%fused_sum"
    text = program(root, fusion, called=scattering(then, root), given=rows(12288))
    assert count(text)["fusion"].link_bytes == 3 * WHOLE // 4


@pytest.mark.parametrize(
    ("then", "kept"),
    [
        (f"ROOT %all = {rows(12544, 'S(1)')} copy(%sum)", 12544),
        # Not the sum itself is sliced, but what another sum is made of.
        (
            f"%part = {rows(3136)} {SLICE.format('%pad', 3136)}\n"
            f"  %mine = {rows(12544)} pad(%part, %zero), padding=0_9408x0_0\n"
            f"  ROOT %all = {rows(12544, 'S(1)')} add(%sum, %mine)",
            12544,
        ),
        # Twice a share: some device needs rows that another adds up.
        (f"ROOT %kept = {rows(6272, 'S(1)')} {SLICE.format('%sum', 6272)}", 6272),
        # All of them the same.
        (
            f"ROOT %kept = {rows(3136, 'S(1)')} dynamic-slice(%sum, %none, %none), dynamic_slice_sizes={{3136,1024}}",
            3136,
        ),
    ],
    ids=["whole", "something else sliced", "more than a share", "no device's own"],
)
def test_a_sum_that_devices_need_whole_is_an_all_reduce(then, kept):
    """It scatters and then gathers."""
    cost = cost_of_fusion(then, kept)
    assert cost.link_bytes == 2 * 3 * WHOLE // 4
    assert cost.seconds == pytest.approx(cost.link_bytes / RING)


def test_what_a_fusion_computes_counts_if_it_takes_longer_than_the_links():
    """Else a product beside which little is sent would be free."""
    tall, square = MATRIX.replace("4096", "65536"), "bf16[8192,1024]{1,0:T(8,128)(2,1)}"
    wide = "f32[65536,8192]{1,0:T(8,128)}"
    called = f"""%product (p0: bf16[65536,1024], p1: bf16[2048,1024]) -> f32[65536,8192] {{
  %p0 = {tall} parameter(0)
  %p1 = {square.replace("8192", "2048")} parameter(1)
  %gather = {square} all-gather(%p1), {GROUPS}, dimensions={{0}}
  ROOT %product.1 = {wide} convolution(%p0, %gather), dim_labels=bf_oi->bf
}}
"""
    lines = (
        f"%w = {square.replace('8192', '2048')} constant({{...}})",
        f"%fusion = {wide} fusion(%x, %w), kind=kOutput, calls=%product",
    )
    cost = count(program(wide, *lines, called=called, given=tall))["fusion"]
    operations = 2 * 65536 * 1024 * 8192
    moved = (65536 * 1024 + 2048 * 1024) * 2 + 65536 * 8192 * 4
    assert cost.link_bytes == 3 * 8192 * 1024 * 2 // 4
    assert (cost.operations, cost.hbm_bytes) == (pytest.approx(operations), moved)
    assert cost.link_seconds < operations / PEAK < moved / BANDWIDTH == pytest.approx(cost.seconds)


def test_a_copy_beside_a_collective_takes_only_what_it_leaves_of_the_bandwidth():
    """The links are far slower than the memory: the copy is free beside them."""
    copied = f"({MATRIX.replace('}', 'S(1)}')}, {MATRIX}, u32[]{{:S(2)}})"
    text = program(
        MATRIX,
        f"%start = {copied} copy-start(%x)",
        f"%sum = {MATRIX} all-reduce(%x), {SUM}",
        f"%done = {MATRIX.replace('}', 'S(1)}')} copy-done(%start)",
        f"%both = {MATRIX} add(%sum, %done)",
    )
    assert count(text)["done"].seconds == 0
    assert count(text)["done"].hbm_bytes == BYTES


def test_a_collective_beside_other_instructions_takes_what_they_do_not():
    found = count(
        program(
            MATRIX,
            f"%sum-start = {MATRIX} all-reduce-start(%x), {SUM}",
            f"%beside = {MATRIX} copy(%x)",
            f"%sum-done = {MATRIX} all-reduce-done(%sum-start)",
            f"%both = {MATRIX} add(%sum-done, %beside)",
        )
    )
    assert found["sum-done"].link_seconds == pytest.approx(1.5 * BYTES / RING)
    assert found["sum-done"].hbm_bytes == 2 * BYTES
    assert found["sum-done"].seconds == pytest.approx(
        found["sum-done"].link_seconds - found["beside"].seconds
    )


def test_a_collective_of_another_core_begins_when_its_rows_are_there():
    """As tpu7x's sparse cores do it: missed, it is a copy; counted from its start, the norm is beside it.

    Only the TPU's own XLA lets an update bring what the start did not have.
    """
    share = MATRIX.replace("4096", "1024")
    text = f"""HloModule jit_step, is_scheduled=true

%gathering (p: bf16[1024,1024]) -> bf16[4096,1024] {{
  %p = {share} parameter(0)
  ROOT %gather = {MATRIX} all-gather(%p), {GROUPS}, dimensions={{0}}
}}

%other_core (p: bf16[1024,1024]) -> bf16[4096,1024] {{
  %p = {share} parameter(0)
  ROOT %call = {MATRIX} custom-call(%p), custom_call_target="core", called_computations={{%gathering}}
}}

ENTRY %main (x: bf16[1024,1024]) -> bf16[4096,1024] {{
  %x = {share} parameter(0)
  %start = ((), (), u32[]{{:S(2)}}) async-start(), calls=%other_core
  %before = {share} copy(%x)
  %update = (({share}), {MATRIX}, u32[]{{:S(2)}}) async-update(%start, %before)
  %beside = {share} copy(%x)
  ROOT %gathered = {MATRIX} async-done(%update)
}}
"""
    found = counted(text)
    cost = found["gathered"]
    assert cost.link_bytes == 3 * BYTES // 4
    assert cost.hbm_bytes == 5 * BYTES // 4
    assert cost.seconds == pytest.approx(cost.link_bytes / RING - found["beside"].seconds)
    assert cost.part == "collectives"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["%sum = X all-reduce(%x), replica_groups={}, to_apply=%add"],
            "devices of sum are not known",
        ),
        (
            ["%fusion = X fusion(%x), kind=kCustom, calls=%begun"],
            "holds all-reduce-start sum-start, only a part",
        ),
    ],
)
def test_a_collective_that_cannot_be_counted_is_an_error(lines, message):
    called = """%begun (p: bf16[4096,1024]) -> bf16[4096,1024] {
  %p = X parameter(0)
  ROOT %sum-start = X all-reduce-start(%p), SUM
}
""".replace("X", MATRIX).replace("SUM", SUM)
    with pytest.raises(ValueError, match=message):
        count(program(MATRIX, *(line.replace("X", MATRIX) for line in lines), called=called))
