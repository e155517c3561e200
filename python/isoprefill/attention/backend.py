"""What an attention back end is. Each has a folder beside this file, whose backend.py holds one as BACKEND.

Letters: T rows, S columns, Hq query heads, Hkv key and value heads, D head_dim.
"""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Array, Float

import isoprefill_csrc
from isoprefill.modes import Backend
from isoprefill_pallas.heads import AttentionHeads

if TYPE_CHECKING:
    from isoprefill.attention.layout import PackedLayout

Attended = tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]  # the output, the log-sum-exp


class AttentionBackend(abc.ABC):
    """One way to compute the attention, without state.

    Attributes:
        name: of its folder, and in `isoprefill.modes.Backend`.
        platform: JAX's name of the platform on which "auto" prefers it.
        has_schedule: the layout must carry what `schedule` returns.
        takes_interpret: `attend` has the option `interpret`.
    """

    name: ClassVar[Backend]
    platform: ClassVar[str | None] = None
    has_schedule: ClassVar[bool] = False
    takes_interpret: ClassVar[bool] = False

    def check(self, heads: AttentionHeads) -> None:  # noqa: B027
        """Refuses heads that the back end does not take; by default none.

        Raises:
            ValueError: naming the value and what is allowed.
        """

    def schedule(
        self,
        layouts: Sequence[isoprefill_csrc.Layout],
        heads: AttentionHeads | None,
        **options: Any,
    ) -> list[Any]:
        """Returns for each layout a pytree of arrays, all of one structure, or None where there is nothing to prepare.

        Args:
            layouts: of one size.
            heads: of the attention.
            options: the back end's own.

        Raises:
            ValueError: naming the option, its value and what is allowed.
        """
        self.refuse(options)
        return [None] * len(layouts)

    @abc.abstractmethod
    def attend(
        self,
        q: Float[Array, "T Hq D"],
        k: Float[Array, "S Hkv D"],
        v: Float[Array, "S Hkv D"],
        layout: "PackedLayout",
        **options: Any,
    ) -> Attended:
        """Computes the attention, inside `jax.jit`, of arguments that `multi_item_attention` has checked.

        Returns:
            the output in q's dtype and the log-sum-exp in float32; zeros and -inf for a row that sees nothing.
        """

    def refuse(self, options: dict[str, Any]) -> None:
        """Raises a ValueError for the first option that has a value: the back end does not have it."""
        for name, value in options.items():
            if value is not None:
                raise ValueError(f"{name} is not for the {self.name!r} back end, got {value!r}")
