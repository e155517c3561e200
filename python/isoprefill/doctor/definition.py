"""Packs that are hard to compute, and their attention by its definition in float64.

Nothing here uses the product's layouts, masks or attention, which are judged by it.

Letters: T tokens, Hq query heads, Hkv key and value heads, D head_dim.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """Requests in one pack: of each the tokens of its query and of its items, then padding.

    Attributes:
        name: what is hard about it.
        requests: (tokens of the query, tokens of each item).
        padding: rows after the last.
        heads: query heads, KV heads, head_dim.
        window: of a layer with sliding-window attention.
    """

    name: str
    requests: tuple[tuple[int, tuple[int, ...]], ...]
    padding: int = 0
    heads: tuple[int, int, int] = (4, 2, 64)
    window: int | None = None

    @property
    def num_rows(self) -> int:
        return sum(query + sum(items) for query, items in self.requests) + self.padding


PACKS = (
    Pack("one token each", ((1, (1, 1, 1)),), padding=4),
    Pack("across tiles", ((100, (60, 1, 33, 20)),), padding=10, heads=(3, 1, 80)),
    Pack("two requests", ((65, (31, 2)), (3, (64, 17, 5))), padding=5, heads=(2, 2, 128)),
    Pack("in a window", ((70, (40, 9, 30)),), padding=11, window=17),
)


def owners(pack: Pack) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
    """Returns of each token its request (-1: padding), its item from 1 on (0: the query), and its position."""
    request: list[int] = []
    item: list[int] = []
    position: list[int] = []
    for index, (query, items) in enumerate(pack.requests):
        request += [index] * (query + sum(items))
        item += [0] * query
        position += range(query)
        for number, length in enumerate(items, 1):
            item += [number] * length
            position += range(query, query + length)
    rest = pack.num_rows - len(request)
    return (
        np.array(request + [-1] * rest),
        np.array(item + [0] * rest),
        np.array(position + [0] * rest),
    )


def visible(pack: Pack) -> Bool[np.ndarray, "T T"]:
    """Returns which token sees which: its request's query and its own item, up to itself, within the window."""
    request, item, position = owners(pack)
    same = (request[:, None] == request) & (request[:, None] >= 0)
    mine = (item == 0) | (item[:, None] == item)
    earlier = position <= position[:, None]
    near = pack.window is None or position > position[:, None] - pack.window
    return same & mine & earlier & near


def attend(
    q: Float[np.ndarray, "T Hq D"],
    k: Float[np.ndarray, "T Hkv D"],
    v: Float[np.ndarray, "T Hkv D"],
    pack: Pack,
) -> Float[np.ndarray, "T Hq D"]:
    """Returns softmax(q k^T / sqrt(D)) v over what is visible, float64; zeros for padding."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q.astype(np.float64), k) / np.sqrt(q.shape[-1])
    mask = visible(pack)
    scores = np.where(mask, scores, -np.inf)
    largest = np.max(scores, axis=-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    out: Float[np.ndarray, "T Hq D"] = np.einsum("hts,shd->thd", weights, v)
    return out
