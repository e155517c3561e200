"""The four functions that every algorithm is made of, and the one that reads scores, compiled.

Packs come in lanes: a leading axis D of packs of one shape, one on each device of the mesh's data axis. Without a
mesh D is 1. Letters: see step_inputs.py.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from isoprefill.execution.lane_functions import LaneFunctions
from isoprefill.execution.mesh import DATA, KEYS_AND_VALUES, TENSOR, param_specs
from isoprefill.execution.step_inputs import PrefixState
from isoprefill.models.config import ModelConfig
from isoprefill.models.decoder import Params
from isoprefill.modes import Backend

LANE, WHOLE = PartitionSpec(DATA), PartitionSpec()
STATE = PrefixState._make((KEYS_AND_VALUES, KEYS_AND_VALUES, WHOLE))


class Steps(NamedTuple):
    """The compiled functions of one model on one mesh: those of `LaneFunctions`, side by side.

    Attributes:
        prefill: (params, PackInputs [D, …]) -> hidden states [D, T, E].
        prefill_prefix: (params, PackInputs, last row) -> PrefixState with P = T. The pack holds a prefix only.
        extend: (params, PackInputs [D, …], PrefixState, its tokens) -> hidden states [D, T + 1, E], the last being
            the prefix's last. The layouts have a cached prefix and S = P + T columns.
        extend_prefix: (params, PackInputs, PrefixState, its tokens, last row, P of the result) -> PrefixState.
            What follows the prefix is packed as an item.
        read: (params, hidden states [D, T, E], ReadoutInputs [D, …]) -> log-probabilities [D, M, K].
    """

    prefill: Callable[..., Float[Array, "D T E"]]
    prefill_prefix: Callable[..., PrefixState]
    extend: Callable[..., Float[Array, "D T+1 E"]]
    extend_prefix: Callable[..., PrefixState]
    read: Callable[..., Float[Array, "D M K"]]


@functools.cache  # two engines with one model share their compilations
def steps(config: ModelConfig, attention: Backend, mesh: Mesh | None) -> Steps:
    """The functions for this model, attention back end and mesh (None: the default device)."""
    of_lane = LaneFunctions(config, attention, 1 if mesh is None else mesh.shape[TENSOR])
    compiled = functools.partial(_compiled, mesh)
    return Steps(
        prefill=compiled(of_lane.prefill, (LANE,), LANE),
        prefill_prefix=compiled(of_lane.prefill_prefix, (WHOLE, WHOLE), STATE),
        extend=compiled(of_lane.extend, (LANE, STATE, WHOLE), LANE),
        extend_prefix=compiled(
            of_lane.extend_prefix, (WHOLE, STATE, WHOLE, WHOLE), STATE, static=(5,)
        ),
        read=compiled(of_lane.read, (LANE, LANE), LANE),
    )


def _compiled(
    mesh: Mesh | None,
    function: Callable[..., Any],
    specs: tuple[Any, ...],
    out_spec: Any,
    static: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """A function of (params, …) for one lane as a compiled one for all of them.

    Args:
        mesh: the devices that the lanes lie on.
        function: loses the leading axis of arguments with the spec `LANE`.
        specs: of the traced arguments after params.
        out_spec: of the result.
        static: places of the arguments that are fixed in a compilation.
    """

    def of_lane(params: Params, *arguments: Any) -> Any:
        inside = [
            jax.tree.map(lambda array: array[0], argument) if spec is LANE else argument
            for argument, spec in zip(arguments, specs, strict=False)
        ]
        result = function(params, *inside, *arguments[len(specs) :])
        return jax.tree.map(lambda array: array[None], result) if out_spec is LANE else result

    def on_mesh(params: Params, *arguments: Any) -> Any:
        traced, fixed = arguments[: len(specs)], arguments[len(specs) :]
        if mesh is None:
            return of_lane(params, *arguments)
        mapped = jax.shard_map(
            lambda params, *traced: of_lane(params, *traced, *fixed),
            mesh=mesh,
            in_specs=(param_specs(params), *specs),
            out_specs=out_spec,
            check_vma=False,  # the head's loop has another length on each device
        )
        return mapped(params, *traced)

    on_mesh.__name__ = function.__name__
    return jax.jit(on_mesh, static_argnums=static)
