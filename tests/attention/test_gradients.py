"""The attention is for inference: who asks for a gradient gets one clear error, or the reference's true gradient.

If one of these fails, a user who trains gets an error from inside JAX, or a wrong gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.backends import BACKENDS

LAYOUT = PackedLayout.from_lengths(3, [2, 1])
OTHERS = [name for name in BACKENDS if name != "dense"]


def operands() -> list[jax.Array]:
    """q [6, 4, 64], k and v [6, 2, 64]."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(6, heads, 64)), jnp.float32) for heads in (4, 2, 2)]


def loss(backend: str, layout: PackedLayout):
    return lambda q, k, v: (multi_item_attention(q, k, v, layout, backend=backend) ** 2).sum()


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("transform", [jax.grad, jax.value_and_grad, jax.jacfwd])
def test_a_gradient_is_refused_in_one_line(backend, transform):
    with pytest.raises(
        ValueError, match=rf"inference: the back end '{backend}'.*'dense'"
    ) as raised:
        transform(loss(backend, LAYOUT))(*operands())
    assert "\n" not in str(raised.value)


def test_a_gradient_is_refused_inside_jit():
    layout = LAYOUT.with_schedule("xla")
    with pytest.raises(ValueError, match="for inference"):
        jax.jit(jax.grad(loss("xla", layout)))(*operands())


def test_the_reference_has_the_true_gradient():
    """Against the attention written out, row by row, over what a row sees."""
    visible = np.asarray(LAYOUT.dense_mask())

    def written_out(q, k, v):
        k, v = (jnp.repeat(x, 2, axis=1) for x in (k, v))
        scores = jnp.einsum("thd,shd->hts", q, k, precision="highest") / 8.0
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        return (jnp.einsum("hts,shd->thd", weights, v, precision="highest") ** 2).sum()

    ours = jax.grad(loss("dense", LAYOUT), argnums=(0, 1, 2))(*operands())
    for mine, theirs in zip(
        ours, jax.grad(written_out, argnums=(0, 1, 2))(*operands()), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)
