"""The requests of a soak test: random, from a seed, each with the scores that the model gives its items one by one."""

import dataclasses
import json
import random
from typing import Any

import numpy as np

from isoprefill import ScoringEngine

FIRST_TOKEN = 10  # below are special tokens
TOLERANCE = 1e-4  # in log space: docs/scoring.md, "Precision"


@dataclasses.dataclass(frozen=True, slots=True)
class KnownRequest:
    """A body of /v1/score, and the log-likelihoods of its items, scored serially."""

    body: bytes
    expected: tuple[float, ...]

    def is_answered_by(self, answer: bytes) -> bool:
        """Whether an answer's scores are the expected ones."""
        scores = [one["score"] for one in json.loads(answer)["scores"]]
        return len(scores) == len(self.expected) and bool(
            np.allclose(scores, self.expected, rtol=0, atol=TOLERANCE)
        )


def known_requests(model: str, number: int, seed: int) -> list[KnownRequest]:
    """Returns requests of 4 to 200 query tokens and 1 to 8 items; some queries come several times."""
    generator = random.Random(seed)
    engine = ScoringEngine.from_pretrained(model)
    vocabulary = engine.model.config.vocab_size

    def tokens(least: int, most: int) -> list[int]:
        length = generator.randint(least, most)
        return [generator.randrange(FIRST_TOKEN, vocabulary) for _ in range(length)]

    queries = [tokens(4, 60) for _ in range(number // 2)] + [tokens(100, 200), tokens(70, 90)]
    made = []
    for _ in range(number):
        query = generator.choice(queries)
        items = [tokens(1, 10) for _ in range(generator.randint(1, 8))]
        body: dict[str, Any] = {"query": query, "items": items}
        scores = engine.score(query, items, algorithm="serial").scores
        made.append(KnownRequest(json.dumps(body).encode(), tuple(map(float, scores))))
    return made
