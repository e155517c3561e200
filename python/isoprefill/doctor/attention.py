"""Every back end of the attention that this machine has: its numbers, and that no item sees another."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float

from isoprefill.attention.backends import BACKENDS, find_backend
from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.op import multi_item_attention
from isoprefill.doctor import definition
from isoprefill.doctor.definition import PACKS, Pack
from isoprefill.doctor.finding import Finding
from isoprefill.modes import Backend
from isoprefill_pallas.heads import AttentionHeads

# Largest difference from float64 of outputs about 1: rounding of inputs and, in bfloat16, of the result.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.03}
_ADVICE = "do not use this back end here (--attention names another), and report this table"

Operands = tuple[np.ndarray, np.ndarray, np.ndarray]
Attend = Callable[[Operands, PackedLayout], np.ndarray]


def check_attention(
    attend: Callable[[Backend], Attend] | None = None, packs: tuple[Pack, ...] = PACKS
) -> Iterator[Finding]:
    """Yields for each back end whether its numbers are right, and whether an item can change another.

    Args:
        attend: of a back end, the function that computes it; by default the product's.
        packs: what to compute.
    """
    attend = attend or _product
    for backend in BACKENDS:
        taken = [pack for pack in packs if _takes(backend, pack)]
        if backend == "pallas" and jax.default_backend() != "tpu":
            taken = taken[:2]  # the interpreter takes seconds for each
        if not taken:
            yield Finding(f"attention: {backend}", "skipped", "it takes none of the shapes here")
            continue
        try:
            yield _numbers(backend, attend(backend), taken)
            yield _isolation(backend, attend(backend), taken)
        except (RuntimeError, NotImplementedError) as error:  # of XLA: its compiler or the device
            yield Finding(f"attention: {backend}", "failed", str(error).splitlines()[0], _ADVICE)


def _numbers(backend: Backend, attend: Attend, packs: list[Pack]) -> Finding:
    name = f"attention: {backend}"
    worst = dict.fromkeys(TOLERANCES, 0.0)
    for pack in packs:
        for dtype, tolerance in TOLERANCES.items():
            q, k, v = _operands(pack, dtype)
            expected = definition.attend(q, k, v, pack)
            found = attend((q, k, v), _layout(pack)).astype(np.float64)
            error = float(np.max(np.abs(found - expected)))
            if not error <= tolerance:  # NaN is a failure
                detail = (
                    f"{pack.name}, {dtype}: off by {error:.2g}; at most {tolerance:g} is expected"
                )
                return Finding(name, "failed", detail, _ADVICE)
            worst[dtype] = max(worst[dtype], error)
    detail = ", ".join(f"{dtype} within {error:.1e}" for dtype, error in worst.items())
    return Finding(name, "ok", f"{detail} of the definition, {len(packs)} packs")


def _isolation(backend: Backend, attend: Attend, packs: list[Pack]) -> Finding:
    name = f"isolation: {backend}"
    changes = 0
    for pack in packs:
        q, k, v = _operands(pack, "float32")
        request, item, _ = definition.owners(pack)
        before = attend((q, k, v), _layout(pack))
        for number in (1, int(item[request == 0].max())):
            others = (request != 0) | ((item != number) & (item > 0))
            mine = (request == 0) & (item == number)
            for poison in (np.float32(1e4), np.float32(np.nan)):
                changed = [np.where(others[:, None, None], poison, x) for x in (q, k)]
                values = np.where(others[:, None, None], np.float32(-1e4), v)
                after = attend((changed[0], changed[1], values), _layout(pack))
                changes += 1
                if after[mine].tobytes() != before[mine].tobytes():
                    moved = float(np.max(np.abs(after[mine] - before[mine])))
                    detail = f"{pack.name}: item {number} moved by {moved:.2g} when the others became {poison:g}"
                    return Finding(name, "failed", detail, _ADVICE)
    return Finding(name, "ok", f"not a bit of an item moved in {changes} changes of the others")


def _takes(backend: Backend, pack: Pack) -> bool:
    q, k, _ = _operands(pack, "float32")
    try:
        find_backend(backend).check(AttentionHeads.of(jnp.asarray(q), jnp.asarray(k)))
    except ValueError:
        return False
    return True


def _product(backend: Backend) -> Attend:
    def attend(operands: Operands, layout: PackedLayout) -> np.ndarray:
        q, k, v = map(jnp.asarray, operands)
        return np.asarray(multi_item_attention(q, k, v, layout, backend=backend))

    return attend


def _layout(pack: Pack) -> PackedLayout:
    parts = [PackedLayout.from_lengths(query, items) for query, items in pack.requests]
    layout = PackedLayout.concat(parts, pack.num_rows)
    return dataclasses.replace(layout, window=pack.window)


def _operands(
    pack: Pack, dtype: str
) -> tuple[Float[np.ndarray, "T Hq D"], Float[np.ndarray, "T Hkv D"], Float[np.ndarray, "T Hkv D"]]:
    rng = np.random.default_rng(0)
    query_heads, kv_heads, head_dim = pack.heads
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    q, k, v = (
        rng.standard_normal((pack.num_rows, heads, head_dim), np.float32).astype(kind)
        for heads in (query_heads, kv_heads, kv_heads)
    )
    return q, k, v
