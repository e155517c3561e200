"""The count of a whole compiled program: reading it, the rule for each instruction, and to which part it goes.

If one of these fails, `bench_tpu --step` prints numbers that mean nothing. What the TPU's own compiler makes of
planted faults is in test_static_cost.py.
"""

import pytest

from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.instruction_schedule import InstructionBundles
from isoprefill_tpu_lab.kernel_costs import KnownKernel, layer_kernel_cost
from isoprefill_tpu_lab.optimised_program import OptimisedProgram
from isoprefill_tpu_lab.step_cost import StepCounter

CHIP = FIGURES["v6e"]
BANDWIDTH, PEAK, CLOCK = CHIP.hbm_bytes_per_second, CHIP.peak_flops, CHIP.clock_hz
MATRIX = "bf16[4096,1024]{1,0:T(8,128)(2,1)}"
IN_VMEM = "bf16[4096,1024]{1,0:T(8,128)(2,1)S(1)}"
PROGRAM = f"""HloModule jit_step, is_scheduled=true

%fused_product (p0.1: bf16[4096,1024], p1.1: bf16[28,512,1024], p2.1: s32[]) -> f32[4096,512] {{
  %p0.1 = {MATRIX} parameter(0)
  %p1.1 = bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}} parameter(1)
  %p2.1 = s32[]{{:T(128)}} parameter(2)
  %zero = s32[]{{:T(128)}} constant(0)
  %slice.1 = bf16[1,512,1024]{{2,1,0:T(8,128)(2,1)}} dynamic-slice(%p1.1, %p2.1, %zero, /*index=3*/%zero), dynamic_slice_sizes={{1,512,1024}}
  %bitcast.1 = bf16[512,1024]{{1,0:T(8,128)(2,1)}} bitcast(%slice.1)
  ROOT %product.1 = f32[4096,512]{{1,0:T(8,128)}} convolution(%p0.1, %bitcast.1), dim_labels=bf_oi->bf, metadata={{op_name="jit(step)/while/body/projections/dot_general"}}
}}

%fused_cast (p0.2: f32[4096,512]) -> bf16[4096,512] {{
  %p0.2 = f32[4096,512]{{1,0:T(8,128)}} parameter(0)
  ROOT %convert.2 = bf16[4096,512]{{1,0:T(8,128)(2,1)}} convert(%p0.2), metadata={{op_name="jit(step)/while/body/feed_forward/norm/mul"}}
}}

%body (state.1: (s32[], bf16[4096,1024], bf16[28,512,1024])) -> (s32[], bf16[4096,1024], bf16[28,512,1024]) {{
  %state.1 = (s32[]{{:T(128)}}, {MATRIX}, bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}}) parameter(0)
  %index.1 = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  %x.1 = {MATRIX} get-tuple-element(%state.1), index=1
  %w.1 = bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}} get-tuple-element(%state.1), index=2
  %start.1 = ({IN_VMEM}, {MATRIX}, u32[]{{:S(2)}}) copy-start(%x.1)
  %product = f32[4096,512]{{1,0:T(8,128)}} fusion(%x.1, %w.1, %index.1), kind=kOutput, calls=%fused_product, backend_config={{"window_config":{{"iteration_bounds":["2","3"]}}}}
  %done.1 = {IN_VMEM} copy-done(%start.1)
  %cast = bf16[4096,512]{{1,0:T(8,128)(2,1)}} fusion(%product), kind=kLoop, calls=%fused_cast
  ROOT %state.2 = (s32[]{{:T(128)}}, {MATRIX}, bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}}) tuple(%index.1, %x.1, %w.1)
}}

%condition (state.3: (s32[], bf16[4096,1024], bf16[28,512,1024])) -> pred[] {{
  %state.3 = (s32[]{{:T(128)}}, {MATRIX}, bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}}) parameter(0)
  ROOT %true = pred[]{{:T(512)}} constant(true)
}}

ENTRY %main (a.1: bf16[4096,1024], b.1: bf16[28,512,1024]) -> bf16[4096,1024] {{
  %a.1 = {MATRIX} parameter(0)
  %b.1 = bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}} parameter(1)
  %none = s32[]{{:T(128)}} constant(0)
  %begin = (s32[]{{:T(128)}}, {MATRIX}, bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}}) tuple(%none, %a.1, %b.1)
  %loop = (s32[]{{:T(128)}}, {MATRIX}, bf16[28,512,1024]{{2,1,0:T(8,128)(2,1)}}) while(%begin), condition=%condition, body=%body, metadata={{op_name="jit(step)/while"}}
  %out = {MATRIX} get-tuple-element(%loop), index=1
  ROOT %turned = bf16[4096,1024]{{0,1:T(8,128)(2,1)}} copy(%out), metadata={{op_name="jit(step)/while/body/projections/mul"}}
}}
"""  # noqa: E501
BUNDLES = """
// LB: loop body
     0   :  { %1 = start }
   0x1 LB: > { %s1 = sphi 0 }
   0x2   : > { %2 = matmul
more of this bundle }
   0x3   :  {} /* a bundle without a mark */
   0x4   : > { %p3 = scmp.ge.s32.totalorder %s1, 8 /* loop exit test */ }
   0x5   :  { %4 = sbr.rel (!%p3) target = $region1 }
   0x6   :  {}
"""


def count(text=PROGRAM, bundles=(), times=28, **kernels):
    counter = StepCounter(
        program=OptimisedProgram.parse(text),
        bundles=dict(bundles),
        kernels=kernels,
        loop_times={"jit(step)": times},
        chip=CHIP,
    )
    return {cost.name: cost for cost in counter.count()}


def test_a_product_reads_its_slice_of_the_weights_and_counts_as_often_as_its_loop():
    cost = count()["product"]
    operations = 2 * 4096 * 1024 * 512
    moved = (
        4096 * 1024 * 2 + 512 * 1024 * 2 + 4096 * 512 * 4 + 4
    )  # x, a layer, the product, the index
    assert cost.operations == pytest.approx(28 * operations)
    assert cost.hbm_bytes == 28 * moved
    assert cost.seconds == pytest.approx(28 * max(operations / PEAK, moved / BANDWIDTH))
    assert (cost.part, cost.times, cost.from_schedule) == ("projections", 28, False)


def test_bundles_count_instead_of_the_peak():
    slow = InstructionBundles(10, ((100_000, 8),))
    cost = count(bundles={"product": slow})["product"]
    assert cost.compute_seconds == pytest.approx(28 * (10 + 6 * 100_000) / CLOCK)
    assert cost.seconds == cost.compute_seconds
    assert cost.from_schedule


def test_a_cast_is_bound_by_memory_and_belongs_to_its_innermost_scope():
    cost = count()["cast"]
    moved = 4096 * 512 * (4 + 2)
    assert cost.seconds == pytest.approx(28 * moved / BANDWIDTH)
    assert cost.part == "norms and RoPE"


def test_a_copy_between_layouts_is_a_copy_whatever_scope_it_comes_from():
    cost = count()["turned"]
    assert (cost.part, cost.times) == ("copies", 1)
    assert cost.seconds == pytest.approx(2 * 4096 * 1024 * 2 / BANDWIDTH)


def test_a_copy_beside_a_product_takes_only_what_the_product_leaves_of_the_bandwidth():
    alone = 4096 * 1024 * 2 / BANDWIDTH  # from HBM into VMEM: one side counts
    slow = InstructionBundles(0, ((10_000_000, 1),))
    assert count(bundles={"product": slow})["done.1"].seconds == 0
    fast = InstructionBundles(1, ())
    assert count(bundles={"product": fast})["done.1"].seconds == pytest.approx(28 * alone)
    assert count(bundles={"product": fast})["done.1"].part == "copies"


def test_a_product_leaves_its_bandwidth_once_a_run():
    """Half of the copy fits beside each of 28 runs, and none of it twice."""
    alone = 4096 * 1024 * 2 / BANDWIDTH
    moving = count()["product"].hbm_bytes / 28 / BANDWIDTH
    half = InstructionBundles(round((moving + alone / 2) * CLOCK), ())
    done = count(bundles={"product": half})["done.1"]
    assert done.seconds == pytest.approx(28 * alone / 2, rel=1e-3)


def test_rows_that_are_looked_up_beside_the_program_count_once_and_not_the_whole_table():
    """As the embedding is: an update between start and done names the table, of which few rows are read."""
    rows, table = "bf16[512,1024]{1,0:T(8,128)(2,1)}", "bf16[151936,1024]{1,0:T(8,128)(2,1)}"
    text = PROGRAM.replace(
        "  ROOT %turned",
        f"""  %table = {table} constant(0)
  %lookup-start = ((), (), u32[]) async-start(), async_execution_thread="sparsecore"
  %lookup-update = (({table}, s32[512]), {rows}, u32[]) async-update(%lookup-start, %table, %none)
  %lookup-done = {rows} async-done(%lookup-update), metadata={{op_name="jit(step)/embedding/gather"}}
  ROOT %turned""",
    )
    found = {name: cost for name, cost in count(text).items() if "lookup" in name}
    assert set(found) == {"lookup-done"}
    assert found["lookup-done"].hbm_bytes == 2 * 512 * 1024 * 2
    assert found["lookup-done"].seconds == pytest.approx(2 * 512 * 1024 * 2 / BANDWIDTH)
    assert found["lookup-done"].part == "embedding"


def test_what_lies_in_vmem_moves_no_bytes():
    moved = count()["turned"].hbm_bytes
    in_vmem = PROGRAM.replace(f"%out = {MATRIX}", f"%out = {IN_VMEM}")
    assert count(in_vmem)["turned"].hbm_bytes == moved / 2


def test_tiles_are_padded():
    narrow = PROGRAM.replace(
        "bf16[4096,1024]{0,1:T(8,128)(2,1)} copy", "bf16[65536,64]{1,0:T(8,128)(2,1)} copy"
    )
    assert count(narrow)["turned"].hbm_bytes == 4096 * 1024 * 2 + 65536 * 128 * 2


def test_a_loop_whose_times_are_not_known_is_an_error():
    with pytest.raises(ValueError, match="no times are known for the loop loop"):
        count(PROGRAM.replace('op_name="jit(step)/while"', 'op_name="jit(other)/while"'))


def test_the_usual_branch_of_a_conditional_counts():
    branch = """%rare (r.1: bf16[4096,1024]) -> bf16[4096,1024] {
  %r.1 = X parameter(0)
  ROOT %costly = X copy(%r.1)
}

%usual (u.1: bf16[4096,1024]) -> bf16[4096,1024] {
  ROOT %u.1 = X parameter(0)
}

ENTRY""".replace("X", MATRIX)
    text = PROGRAM.replace("ENTRY", branch).replace(
        "ROOT %turned",
        f"%any = {MATRIX} conditional(%none, %out, %out), branch_computations={{%usual, %rare}}\n  ROOT %turned",
    )
    assert "costly" not in count(text)
    assert "costly" in count(text.replace("{%usual, %rare}", "{%rare, %usual}"))


def test_kernels_count_by_what_is_known_of_them():
    text = PROGRAM.replace(
        "ROOT %turned = bf16[4096,1024]{0,1:T(8,128)(2,1)} copy(%out)",
        f'ROOT %isoprefill_x.3 = {MATRIX} custom-call(%out), custom_call_target="tpu_custom_call"',
    )
    cost = count(text, isoprefill_x=lambda *shapes: KnownKernel(1000, 5, 7.0))["isoprefill_x.3"]
    assert (cost.hbm_bytes, cost.operations, cost.part) == (5, 7.0, "attention")
    assert cost.seconds == pytest.approx(1000 / CLOCK)


def test_a_kernel_of_the_layer_reads_its_layer_once_for_each_tile_of_rows():
    text = PROGRAM.replace(
        "ROOT %turned = bf16[4096,1024]{0,1:T(8,128)(2,1)} copy(%out)",
        "ROOT %isoprefill_heads.3 = bf16[4096,512]{1,0:T(8,128)(2,1)} custom-call(%none, %out, %b.1), "
        'custom_call_target="tpu_custom_call"',
    )
    cost = count(text, isoprefill_heads=layer_kernel_cost)["isoprefill_heads.3"]
    rows_at_once = 1024
    weights = 512 * 1024 * 2 * 4096 // rows_at_once
    index = 4
    assert cost.hbm_bytes == 4096 * 1024 * 2 + 4096 * 512 * 2 + weights + index
    assert cost.operations == 2 * 4096 * 1024 * 512
    assert cost.part == "projections"


def test_bundles_of_a_loop_run_as_often_as_its_windows_or_its_exit_test_says():
    bundles = InstructionBundles.parse(BUNDLES)
    assert bundles == InstructionBundles(3, ((4, 8),))
    assert bundles.executed(None) == 3 + 4 * 8
    assert bundles.executed(6) == 3 + 4 * 6  # two more to fill and drain the pipeline
    assert bundles.executed(200) == 3 + 4 * 8  # not this loop's
    unknown = InstructionBundles.parse(BUNDLES.replace("8 /* loop", "%s9 /* loop"))
    assert unknown.executed(None) is None
    assert unknown.executed(6) is not None


def test_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        OptimisedProgram.parse("HloModule x")
    with pytest.raises(ValueError, match="cannot be read: %broken"):
        OptimisedProgram.parse("ENTRY %main (a: f32[]) -> f32[] {\n  %broken = f32[] what\n}")
