"""Labels of several tokens as a tree, so that tokens that labels begin with alike are computed once."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int32, Int64

MOST_READ = 1 << 16  # numbers in `read`, some unused, below which no row comes twice


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LabelTrie:
    """What must be computed after an item, and read there, to score its labels.

    A node is a token after which another token of a label comes. The labels `very good`, `very bad`, `bad` and
    `not at all` have the nodes very, not, at: only these are rows. At the item's last row very, bad and not are read;
    after very good and bad; after not at; after at all.

    Attributes:
        tokens: of the nodes, depth first: a node that does not follow its parent begins a new branch.
        depths: how many tokens of a label each node ends, itself included.
        rows: where is read: 0 is the item's last row, k + 1 node k. Where many tokens are read, a row may come again.
        read: the tokens read there; -1 fills up.
        places: of each label's tokens where `read` has them, counted row after row; -1 after the last.
    """

    tokens: Int32[np.ndarray, "n"]
    depths: Int64[np.ndarray, "n"]
    rows: Int64[np.ndarray, "m"]
    read: Int32[np.ndarray, "m K"]
    places: Int64[np.ndarray, "L S"]

    @classmethod
    def of(cls, labels: Int32[np.ndarray, "L S"]) -> "LabelTrie":
        """Makes the tree of one list of labels; -1 follows the last token of a label, and the last label."""
        return _made(labels)

    @property
    def branches(self) -> Int64[np.ndarray, "b"]:
        """The nodes that begin a branch: the first, if there are nodes, and those that do not follow their parent."""
        follows = self.depths[1:] == self.depths[:-1] + 1
        return np.flatnonzero(np.concatenate([np.ones(min(1, self.depths.size), bool), ~follows]))

    @property
    def num_branches(self) -> int:
        """In how many branches labels follow the item; the first continues it, as no tokens do."""
        return max(1, self.branches.size)

    def log_probabilities(self, logprobs: Float64[np.ndarray, "m K"]) -> Float64[np.ndarray, "L"]:
        """Returns each label's, the sum of its tokens', of those of `read`; -inf for what is no label."""
        of_tokens = np.where(self.places >= 0, logprobs.ravel()[self.places], 0.0)
        return np.where(self.places[:, 0] >= 0, of_tokens.sum(axis=1), -np.inf)


def _made(ids: Int32[np.ndarray, "L S"]) -> LabelTrie:
    labels = [[token for token in label if token >= 0] for label in ids.tolist()]
    width = ids.shape[1]
    children: list[dict[int, int]] = [{}]  # of the root, the item, and of each node: by token
    read: list[dict[int, int]] = [{}]  # at each of them: the place of each token
    paths = []  # of each label: the root, then its nodes
    for label in labels:
        path = [0] if label else []
        for token in label[:-1]:
            node = children[path[-1]].setdefault(token, len(children))
            if node == len(children):
                children.append({})
                read.append({})
            path.append(node)
        for node, token in zip(path, label, strict=True):
            read[node].setdefault(token, len(read[node]))
        paths.append(path)
    order, tokens, depths = [0], [], []
    ahead = [(node, token, 1) for token, node in reversed(children[0].items())]
    while ahead:
        node, token, depth = ahead.pop()
        order.append(node)
        tokens.append(token)
        depths.append(depth)
        ahead += [(one, token, depth + 1) for token, one in reversed(children[node].items())]
    counts = np.asarray([max(1, len(read[node])) for node in order])
    together = _read_together(counts)
    times = -(-counts // together)
    begins = dict(zip(order, (np.cumsum(times) - times) * together, strict=True))
    read_ids = np.full(int(times.sum()) * together, -1, np.int32)
    for node, begin in begins.items():
        read_ids[begin : begin + len(read[node])] = list(read[node])
    places = np.full((len(labels), width), -1, np.int64)
    for index, (label, path) in enumerate(zip(labels, paths, strict=True)):
        places[index, : len(label)] = [
            begins[node] + read[node][token] for node, token in zip(path, label, strict=True)
        ]
    return LabelTrie(
        np.asarray(tokens, np.int32),
        np.asarray(depths, np.int64),
        np.repeat(np.arange(len(order)), times),
        read_ids.reshape(-1, together),
        places,
    )


def _read_together(counts: Int64[np.ndarray, "n+1"]) -> int:
    """Returns how many tokens are read at a row at once: all, or so few that at most a quarter of `read` is unused.

    A row that comes again costs its logits again, so rows at most double.
    """
    most = int(counts.max())
    if most * counts.size <= MOST_READ:
        return most
    together = 1
    while int((-(-counts // together)).sum()) > 2 * counts.size:
        together *= 2
    return together
