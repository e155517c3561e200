"""Back ends with one fault each, for testing that the auditor finds it. Nothing here ships."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI

from isoprefill_torch import masks
from isoprefill_torch.head import item_logprobs
from isoprefill_torch.packing import DELIMITER_SEGMENT, Packing, pack
from isoprefill_torch.scorer import TorchScorer
from isoprefill_torch.server import Backend

DELIMITER_ID = 10


class MaskFault(Backend):
    """Packed scoring with a mask or positions of its own."""

    def packing(self, query, items) -> Packing:
        return pack(query, items)

    def mask(self, packing: Packing) -> torch.Tensor:
        return masks.isolated(packing)

    def logprobs(self, query, items, labels):
        packing = self.packing(query, items)
        model, rows = self.scorer.model, (packing.context_rows, packing.first_rows)
        with torch.inference_mode():
            hidden = model.hidden_states(
                packing.token_ids[None], positions=packing.positions, mask=self.mask(packing)
            )
            return item_logprobs(model, hidden[0], *rows, items, labels)


class PositionsRunOn(MaskFault):
    """Positions do not restart at each item: an item's distance to the query grows."""

    def packing(self, query, items):
        packing = pack(query, items)
        return dataclasses.replace(packing, positions=torch.arange(packing.positions.numel()))


class DelimitersVisible(MaskFault):
    """Items see all delimiters before them."""

    def packing(self, query, items):
        return pack(query, items, "hidden", DELIMITER_ID)

    def mask(self, packing):
        delimiters = (packing.segments == DELIMITER_SEGMENT)[None, :]
        return super().mask(packing) | (masks.not_later(packing) & delimiters)


class SeesItemBefore(MaskFault):
    """Boundaries are one off: an item sees the item before it."""

    def mask(self, packing):
        own, seen = packing.segments[:, None], packing.segments[None, :]
        return super().mask(packing) | ((own > 1) & (seen == own - 1))


class SeesAllItems(MaskFault):
    """Items see all others, later ones too."""

    def mask(self, packing):
        own, seen = packing.segments[:, None], packing.segments[None, :]
        return super().mask(packing) | ((own > 0) & (seen > 0) & (seen != own))


class Noisy(Backend):
    """Scores vary from one request to the next."""

    deviation = 0.3
    generator = np.random.default_rng(0)

    def logprobs(self, query, items, labels):
        exact = super().logprobs(query, items, labels)
        return exact + self.generator.normal(0.0, self.deviation, exact.shape)


class SlightlyNoisy(Noisy):
    deviation = 1e-4


def batching_app(scorer: TorchScorer, wait_seconds: float = 0.05, leak: bool = True) -> FastAPI:
    """Requests that arrive within `wait_seconds` share a pack, and later ones see the queries of earlier ones.

    Text is taken as bytes: the small models' tokenizer has a token for each.

    Args:
        scorer: the model.
        wait_seconds: how long a batch stays open.
        leak: with False the requests of a batch are kept apart.
    """
    app = FastAPI()
    waiting: list[tuple[Packing, list[list[int]], asyncio.Future]] = []
    batches: list[asyncio.Task] = []  # kept, else the loop may drop them

    async def run_batch() -> None:
        await asyncio.sleep(wait_seconds)
        batch, waiting[:] = list(waiting), []
        scores = _score_together(scorer, [(one, items) for one, items, _ in batch], leak)
        for (_, _, future), result in zip(batch, scores, strict=True):
            future.set_result(result)

    @app.post("/v1/score")
    async def score(body: dict[str, Any]) -> dict[str, Any]:
        items = [list(item.encode()) or [0] for item in body["items"]]
        future = asyncio.get_running_loop().create_future()
        waiting.append((pack(list(body["query"].encode()), items), items, future))
        if len(waiting) == 1:
            batches.append(asyncio.create_task(run_batch()))
        scores = await future
        return {"model": "batching", "scores": [{"score": score} for score in scores]}

    return app


def _score_together(
    scorer: TorchScorer, batch: Sequence[tuple[Packing, list[list[int]]]], leak: bool
) -> list[list[float]]:
    lengths = [packing.token_ids.numel() for packing, _ in batch]
    starts = np.cumsum([0, *lengths[:-1]])
    request = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(lengths))
    token_ids, positions, segments = (
        torch.cat([getattr(packing, name) for packing, _ in batch])
        for name in ("token_ids", "positions", "segments")
    )
    same_request = request[:, None] == request[None, :]
    own = (segments[:, None] == segments[None, :]) & same_request
    prefix = segments[None, :] == 0
    mask = torch.ones(len(request), len(request), dtype=torch.bool).tril()
    mask &= own | (prefix if leak else prefix & same_request)
    with torch.inference_mode():
        hidden = scorer.model.hidden_states(token_ids[None], positions=positions, mask=mask)[0]
        return [
            item_logprobs(
                scorer.model,
                hidden[start : start + length],
                packing.context_rows,
                packing.first_rows,
                items,
                None,
            ).tolist()
            for (packing, items), start, length in zip(batch, starts, lengths, strict=True)
        ]
