"""What the attention refuses, and which back end it takes where nobody says."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isoprefill_csrc
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.cpu.backend import cpu_attention
from reference_packs import random_qkv


def test_cpu_refuses_what_it_cannot_compute():
    """The extension must not read outside its arrays, whatever it is handed inside jit."""
    layout = PackedLayout.from_lengths(5, [3])
    arrays = random_qkv(layout)
    outside = np.array(layout.row_intervals)
    outside[1, 6] = 9
    for intervals, instructions, message in (
        (outside, "best", r"prefix interval of row 6 is \[0, 9\); it must lie in the 8 columns"),
        (layout.row_intervals[:, :7], "best", r"row_intervals has shape \[4, 7\]"),
        (layout.row_intervals, "mmx", 'instructions is "mmx"'),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(
                cpu_attention(*arrays, intervals, scale=1.0, instructions=instructions)
            )


def test_cpu_says_when_memory_runs_out():
    """A caller must be able to tell it from a wrong argument. The tile of one row of many heads takes gigabytes."""
    program = textwrap.dedent("""
        import resource

        import jax
        import numpy as np

        from isoprefill.attention.cpu.backend import cpu_attention

        def attend(heads):
            q, k = np.zeros((1, heads, 1), np.float32), np.zeros((1, 1, 1), np.float32)
            intervals = np.array([[0], [1], [0], [0]], np.int32)
            jax.block_until_ready(cpu_attention(q, k, k, intervals, scale=1.0))

        attend(1)
        with open("/proc/self/statm") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), most))
        attend(1 << 24)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "RESOURCE_EXHAUSTED: out of memory" in done.stderr


def test_auto_takes_cpu_where_it_takes_the_heads():
    layout = PackedLayout.from_lengths(5, [3])

    def primitives(head_dim):
        arrays = random_qkv(layout, head_dim=head_dim)
        return str(jax.make_jaxpr(lambda q, k, v: multi_item_attention(q, k, v, layout))(*arrays))

    assert "isoprefill_attention" in primitives(64)
    assert "isoprefill_attention" not in primitives(isoprefill_csrc.MAX_HEAD_DIM + 8)


def test_a_traced_layout_without_its_schedule_says_so():
    layout = PackedLayout.from_lengths(5, [3])
    with pytest.raises(ValueError, match="with_schedule is not available on a traced PackedLayout"):
        jax.jit(multi_item_attention, static_argnames="backend")(
            *random_qkv(layout), layout, backend="xla"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (8, 2, 64, 1)}, "q must have 3 dimensions"),
        ({"q": (9, 2, 64)}, r"q must have the layout's 8 rows, got shape \(9, 2, 64\)"),
        ({"k": (7, 2, 64)}, r"k must have the layout's 8 columns, got shape \(7, 2, 64\)"),
        ({"v": (8, 2, 32)}, r"v must have q's head_dim 64, got shape \(8, 2, 32\)"),
        ({"v": (8, 1, 64)}, r"v must have k's shape"),
        (
            {"k": (8, 3, 64), "v": (8, 3, 64)},
            "query heads must be a multiple of the 3 KV heads, got 2",
        ),
        ({"k": (8, 0, 64), "v": (8, 0, 64)}, "KV heads must be at least 1, got 0"),
        ({"q": (8, 0, 64)}, "query heads must be at least 1, got 0"),
        (dict.fromkeys("qkv", (8, 2, 0)), "head_dim must be at least 1, got 0"),
        (
            dict.fromkeys("qkv", (8, 2, 520)) | {"backend": "cpu"},
            "the cpu back end takes head_dim up to 512, got 520",
        ),
        ({"dtype": "float16"}, r"q must be one of \('float32', 'bfloat16'\), got float16"),
        ({"backend": "cuda"}, "backend must be one of .*'cuda'"),
        ({"soft_cap": 0.0}, "soft_cap must be from 1e-30 to 1e[+]30, got 0.0"),
        ({"soft_cap": 1e-50}, "soft_cap must be .* got 1e-50"),
        ({"soft_cap": np.inf}, "soft_cap must be .* got inf"),
        ({"soft_cap": np.nan}, "soft_cap must be .* got nan"),
    ],
)
def test_bad_input_is_rejected_by_name(change, message):
    layout = PackedLayout.from_lengths(5, [3])
    options = {key: change[key] for key in ("backend", "soft_cap") if key in change}
    arrays = [
        jnp.zeros(change.get(name, (8, 2, 64)), change.get("dtype", "float32")) for name in "qkv"
    ]
    with pytest.raises(ValueError, match=message):
        multi_item_attention(*arrays, layout, **options)
