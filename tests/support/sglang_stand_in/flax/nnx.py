"""The little of flax.nnx that the link uses: modules are pytrees whose arrays and modules are traced."""

import jax


class Module:
    def __init_subclass__(cls):
        jax.tree_util.register_pytree_node(
            cls, _flatten, lambda aux, traced: _unflatten(cls, aux, traced)
        )

    def iter_modules(self):
        yield (), self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from (((name, *path), module) for path, module in value.iter_modules())


def data(value):
    return value


def _traced(value):
    return not jax.tree_util.all_leaves([value]) or isinstance(value, jax.Array)


def _flatten(module):
    traced = {name: value for name, value in vars(module).items() if _traced(value)}
    static = tuple((name, value) for name, value in vars(module).items() if name not in traced)
    return tuple(traced.values()), (tuple(traced), static)


def _unflatten(cls, aux, traced):
    module = object.__new__(cls)
    vars(module).update(zip(aux[0], traced, strict=True))
    vars(module).update(aux[1])
    return module
