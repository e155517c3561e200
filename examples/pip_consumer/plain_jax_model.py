"""A model of one's own in plain JAX with isoprefill's attention: all items in one pass, each as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np

import isoprefill

VOCAB, WIDTH, LAYERS = 100, 64, 2
SHAPES = {  # query, key and value heads of width 16
    "query": (WIDTH, 4, 16),
    "key": (WIDTH, 2, 16),
    "value": (WIDTH, 2, 16),
    "output": (4, 16, WIDTH),
}


def random_params(seed: int) -> dict:
    """Embeddings of tokens and positions, and the projections of each layer."""
    normal = np.random.default_rng(seed).standard_normal
    return {
        "token": normal((VOCAB, WIDTH)) / 8,
        "position": normal((256, WIDTH)) / 8,
        "layers": [
            {name: normal(shape) / 8 for name, shape in SHAPES.items()} for _ in range(LAYERS)
        ],
    }


@jax.jit
def logprobs(params, tokens, layout, rows):
    """log P(next token) at the rows asked for, [R, vocabulary]."""
    x = params["token"][tokens] + params["position"][layout.positions]
    for layer in params["layers"]:
        q, k, v = (jnp.einsum("te,ehd->thd", x, layer[name]) for name in ("query", "key", "value"))
        attended = isoprefill.multi_item_attention(q, k, v, layout)
        x = x + jnp.einsum("thd,hde->te", attended, layer["output"])
    return jax.nn.log_softmax(x[rows] @ params["token"].T)


def score(params, query: list[int], items: list[list[int]]):
    """log P(next token | query, item) for each item, [N, vocabulary], in one pass."""
    layout = isoprefill.PackedLayout.from_lengths(len(query), [len(item) for item in items])
    tokens = np.array(query + [token for item in items for token in item])
    return logprobs(params, tokens, layout.with_schedule("xla"), layout.readout_rows)


def main() -> None:
    """Scores items together and one by one, and prints by how much the results differ."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_params(0))
    query, items = list(range(1, 30)), [[31, 32, 33], [40], [50, 51, 52, 53, 54]]
    together = score(params, query, items)
    alone = jnp.concatenate([score(params, query, [item]) for item in items])
    difference = float(jnp.abs(together - alone).max())
    print(f"{len(items)} items together and one by one differ by {difference:.1e}")
    if not difference < 1e-5:
        raise SystemExit("an item's score depends on its neighbours")


if __name__ == "__main__":
    main()
