"""Runs the LM head at the rows that are scored, a block of rows at a time.

R rows, N items, L labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from isoprefill_torch.model import CausalLM

BLOCK_ROWS = 512  # 100 MB of logits for a vocabulary of 49,152


def item_logprobs(
    model: CausalLM,
    hidden: Float[Tensor, "R hidden"],
    context_rows: Sequence[int],
    first_rows: Sequence[int],
    items: Sequence[Sequence[int]],
    labels: Sequence[int] | None,
) -> Float64[np.ndarray, "N *L"]:
    """Returns log P(label) after each item, or each item's log-likelihood if there are no labels.

    `first_rows` are the rows of the items' first tokens, `context_rows` those that predict these tokens.
    """
    if labels is not None:
        last = [first + len(item) - 1 for first, item in zip(first_rows, items, strict=True)]
        return _logprobs(model, hidden[last], [list(labels)] * len(last))
    rows: list[int] = []
    targets: list[list[int]] = []
    starts: list[int] = []
    for context, first, item in zip(context_rows, first_rows, items, strict=True):
        starts.append(len(rows))
        rows += [context, *range(first, first + len(item) - 1)]
        targets += [[token] for token in item]
    return np.add.reduceat(_logprobs(model, hidden[rows], targets)[:, 0], starts)


def _logprobs(
    model: CausalLM, hidden: Float[Tensor, "R hidden"], tokens: Sequence[Sequence[int]]
) -> Float64[np.ndarray, "R L"]:
    head = model.torch_model.get_output_embeddings()
    chosen = torch.tensor(tokens, device=hidden.device)
    parts = []
    for start in range(0, len(tokens), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        logits = head(hidden[block]).float()
        parts.append(logits.gather(1, chosen[block]) - logits.logsumexp(dim=-1, keepdim=True))
    return torch.cat(parts).double().cpu().numpy()
