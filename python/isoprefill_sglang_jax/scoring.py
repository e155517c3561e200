"""Scores a request in sglang-jax's front end: all items in one prefill, softmax on the host."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from sgl_jax.srt.managers.io_struct import GenerateReqInput

from isoprefill import integers
from isoprefill.request.softmax import softmax
from isoprefill_sglang_jax.items import RequestItems


async def score_request(
    item_by_item: Callable[..., Awaitable[list[list[float]]]],
    self: Any,
    query: str | list[int] | None = None,
    items: str | list[str] | list[list[int]] | None = None,
    label_token_ids: list[int] | None = None,
    apply_softmax: bool = False,
    item_first: bool = False,
    request: Any | None = None,
) -> list[list[float]]:
    """Wraps TokenizerManager.score_request: same arguments and results, in as few prefills as the items fit into.

    The prompts are those that sglang-jax makes, tokenised as it does. What they have in common is computed once and
    the rest of each is an item, so that the scores are those of each prompt alone.

    Args:
        item_by_item: sglang-jax's score_request. It serves prompts with the item first, or that begin differently.
    """
    labels = _labels(label_token_ids, self.model_config.vocab_size)
    prompts = _prompts(self.tokenizer, query, items, item_first)
    prefix_len = common_prefix(prompts)
    # With the item first, prompts share no query: only a token that begins every text, or what items share by chance.
    if item_first or prefix_len == 0:
        return await item_by_item(
            self, query, items, label_token_ids, apply_softmax, item_first, request
        )
    longest = max(map(len, prompts))
    if longest >= self.context_len:
        raise ValueError(
            f"query and item ({longest} tokens) are longer than the model's context length "
            f"({self.context_len} tokens)"
        )
    packs = _packs(self, prompts, prefix_len)
    results = await asyncio.gather(
        *(_score_pack(self, pack, prefix_len, labels, request) for pack in packs)
    )
    logprobs = np.concatenate(results).astype(np.float64)
    return (softmax(logprobs) if apply_softmax else np.exp(logprobs)).tolist()


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Returns how many first tokens all prompts share, leaving each at least one token of its own."""
    first, last = min(prompts), max(prompts)  # all others lie between these in lexical order
    return min(integers.common_prefix(first, last), min(map(len, prompts)) - 1)


def _labels(label_token_ids: list[int] | None, vocab_size: int) -> tuple[int, ...]:
    if label_token_ids is None:
        raise ValueError("label_token_ids must be provided")
    if not label_token_ids:
        raise ValueError("label_token_ids must not be empty")
    for token_id in label_token_ids:
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"Token ID {token_id} is out of vocabulary (vocab size: {vocab_size})")
    return tuple(label_token_ids)


def _prompts(
    tokenizer: Any,
    query: str | list[int] | None,
    items: str | list[str] | list[list[int]] | None,
    item_first: bool,
) -> list[list[int]]:
    """Returns the tokens of each item's prompt."""
    if isinstance(items, str):
        items = [items]
    if not isinstance(items, list) or not items:
        raise ValueError("items must be provided and must not be empty")
    prompts: list[list[int]]
    if isinstance(query, str) and all(isinstance(item, str) for item in items):
        if tokenizer is None:
            raise ValueError("text needs the tokenizer, which skip_tokenizer_init left out")
        texts = [f"{item}{query}" if item_first else f"{query}{item}" for item in items]
        prompts = tokenizer(texts)["input_ids"]
    elif isinstance(query, list) and all(isinstance(item, list) for item in items):
        prompts = [[*item, *query] if item_first else [*query, *item] for item in items]
    else:
        raise ValueError("Invalid combination of query/items types for score_request.")
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"query and item {index} have no tokens")
    return prompts


def _packs(manager: Any, prompts: list[list[int]], prefix_len: int) -> list[list[list[int]]]:
    """Groups the prompts, in order, into as few prefills as the server's limits allow."""
    limit = min(manager.context_len, manager.max_req_input_len) - 1
    if manager.server_args.chunked_prefill_size <= 0:
        limit = min(limit, manager.server_args.max_prefill_tokens)
    packs: list[list[list[int]]] = []
    room = -1
    for index, prompt in enumerate(prompts):
        own = len(prompt) - prefix_len
        if own > room:
            packs.append([])
            room = limit - prefix_len
        if own > room:
            raise ValueError(
                f"query and item {index} have {len(prompt)} tokens; this server takes {limit}"
            )
        packs[-1].append(prompt)
        room -= own
    return packs


async def _score_pack(
    manager: Any,
    prompts: list[list[int]],
    prefix_len: int,
    labels: tuple[int, ...],
    request: Any | None,
) -> Float32[np.ndarray, "N L"]:
    """Returns the log-probabilities of one prefill."""
    lengths = tuple(len(prompt) - prefix_len for prompt in prompts)
    items = RequestItems(prefix_len, lengths, labels)
    tokens = prompts[0][:prefix_len]
    for prompt in prompts:
        tokens += prompt[prefix_len:]
    generate = GenerateReqInput(
        input_ids=tokens,
        sampling_params={"max_new_tokens": 0},
        extra_key=items.encode(),
        stream=False,
    )
    result = await anext(manager.generate_request(generate, request))
    encoded = result["meta_info"].get("routed_experts")
    if not encoded:
        raise RuntimeError(
            "the scheduler returned no log-probabilities for a multi-item request (finish reason "
            f"{result['meta_info'].get('finish_reason')}): isoprefill's install() must have run before the engine or "
            "server was started"
        )
    logprobs = np.frombuffer(base64.b64decode(encoded), np.float32).reshape(-1, len(labels))
    if logprobs.shape[0] != len(prompts) or not np.isfinite(logprobs).all():
        raise RuntimeError(
            f"the scheduler returned log-probabilities of shape {logprobs.shape} for {len(prompts)} items, or NaN"
        )
    return logprobs
