"""What an attention back end is. Each has a folder beside this file, whose backend.py holds one as BACKEND.

Letters: T rows, S columns, Hq query heads, Hkv key and value heads, D head_dim.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from isoprefill.modes import Backend
from isoprefill_pallas.heads import AttentionHeads

Attended = tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]  # the output, the log-sum-exp


@dataclasses.dataclass(frozen=True, slots=True)
class AttentionBackend:
    """One way to compute the attention.

    Attributes:
        name: of its folder, and in `isoprefill.modes.Backend`.
        attend: `attend(q [T, Hq, D], k [S, Hkv, D], v [S, Hkv, D], layout, scale=…, soft_cap=…)` computes the
            attention, inside `jax.jit`, of arguments that `multi_item_attention` has checked: the output in q's dtype
            and the log-sum-exp in float32; zeros and -inf for a row that sees nothing.
        check: refuses heads that the back end does not take with a ValueError, naming the value and what is allowed.
        platform: JAX's name of the platform on which "auto" prefers it.
        schedule: `schedule(layouts, heads, **options)`, of C++ layouts of one size, returns the schedule that each must
            carry: a pytree of arrays, all of one structure. None: there is nothing to prepare.
        schedule_options: names of its options.
        takes_interpret: `attend` has the option `interpret`.
        has_gradient: JAX can differentiate `attend`.
        takes_sinks: `attend` has the option `sinks`. Others get theirs by the log-sum-exp.
    """

    name: Backend
    attend: Callable[..., Attended]
    check: Callable[[AttentionHeads], object] = lambda heads: None
    platform: str | None = None
    schedule: Callable[..., list[Any]] | None = None
    schedule_options: tuple[str, ...] = ()
    takes_interpret: bool = False
    has_gradient: bool = False
    takes_sinks: bool = False
