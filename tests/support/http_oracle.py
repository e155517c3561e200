"""The oracle of the HTTP tests: the served model in transformers, one text at a time."""

import numpy as np
import torch

import small_models
from byte_level_tokenizer import byte_tokenizer

VOCAB = small_models.VOCAB_SIZE
MODEL = small_models.random_model("llama")


def tokens_of(text: str) -> list[int]:
    return byte_tokenizer().encode(text).ids


@torch.no_grad()
def log_probabilities(tokens: list[int]) -> np.ndarray:
    """The oracle: log P of every token of the vocabulary after each of `tokens`, [T, V]."""
    logits = MODEL(torch.tensor([tokens])).logits[0].double()
    return torch.log_softmax(logits, -1).numpy()


def oracle_likelihood(query: str, item: str) -> float:
    first, second = tokens_of(query), tokens_of(item)
    after = log_probabilities(first + second)
    return sum(after[len(first) - 1 + place, token] for place, token in enumerate(second))


def oracle_labels(query: str, item: str, labels: list[int]) -> np.ndarray:
    return log_probabilities(tokens_of(query + item))[-1, labels]
