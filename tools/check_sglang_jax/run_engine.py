"""Runs one sglang-jax engine on the CPU and writes what it answers as JSON; main.py starts it.

    python run_engine.py '{"attention": "auto", "engine": {"model_path": …}}' OUTPUT_FILE

`attention` is install()'s argument; null leaves sglang-jax as it is.

A script of its own, because an engine owns its process, and because it runs in the Python that has sglang-jax.
"""

import asyncio
import json
import pathlib
import sys
from typing import Any

import numpy as np

QUERY = 37
ITEMS = (1, 5, 20, 3, 7)
LABELS = [3, 4, 100, 511]
GREEDY = {"max_new_tokens": 4, "temperature": 0}
TEXT_QUERY, TEXT_ITEMS = "The capital of France is", [" Paris", " Pari", " the capital", "s"]


def workload(seed: int) -> tuple[list[int], list[list[int]]]:
    """Returns a query and items of random tokens."""
    generator = np.random.default_rng(seed)
    query, *items = (generator.integers(1, 512, n).tolist() for n in (QUERY, *ITEMS))
    return query, items


def generations(engine: Any) -> list[Any]:
    """What ordinary generation returns: tokens, and the log-probabilities of prompt and output.

    One prompt after another: see item_by_item.
    """
    found = []
    for seed in range(2):
        answer = engine.generate(
            input_ids=workload(seed)[0],
            sampling_params=GREEDY,
            return_logprob=True,
            logprob_start_len=0,
        )
        prompt, output = (
            [entry[0] for entry in answer["meta_info"][name]]
            for name in ("input_token_logprobs", "output_token_logprobs")
        )
        found.append([answer["output_ids"], prompt, output])
    return found


def item_by_item(engine: Any) -> dict[str, Any]:
    """What sglang-jax itself returns, one item a call.

    One item a call because its CPU back end mixes up the requests of a prefill.
    """

    def scores(query: Any, items: list[Any], **options: Any) -> list[list[float]]:
        return [
            engine.score(query=query, items=[item], label_token_ids=LABELS, **options)[0]
            for item in items
        ]

    return {
        "tokens 0": scores(*workload(0)),
        "tokens 1": scores(*workload(1)),
        "text": scores(TEXT_QUERY, TEXT_ITEMS),
        "softmax": scores(TEXT_QUERY, TEXT_ITEMS, apply_softmax=True),
        "item first": scores(TEXT_QUERY, TEXT_ITEMS[:1], item_first=True),
    }


def multi_item(engine: Any) -> dict[str, Any]:
    """What our scoring returns: two requests at once, beside an ordinary generation."""

    async def together() -> list[Any]:
        return await asyncio.gather(
            *(engine.async_score(*workload(seed), label_token_ids=LABELS) for seed in range(2)),
            engine.async_generate(input_ids=workload(0)[0], sampling_params=GREEDY),
        )

    prefills = 0
    send = engine.tokenizer_manager._send_one_request

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal prefills
        prefills += 1
        return send(*args, **kwargs)

    engine.tokenizer_manager._send_one_request = counted
    alone = engine.score(*workload(0), label_token_ids=LABELS)
    prefills_alone = prefills
    first, second, generated = engine.loop.run_until_complete(together())
    return {
        "prefills": prefills_alone,
        "alone": alone,
        "generated": generated["output_ids"],
        "tokens 0": first,
        "tokens 1": second,
        "text": engine.score(TEXT_QUERY, TEXT_ITEMS, LABELS),
        "softmax": engine.score(TEXT_QUERY, TEXT_ITEMS, LABELS, apply_softmax=True),
        "item first": engine.score(TEXT_QUERY, TEXT_ITEMS[:1], LABELS, item_first=True),
    }


def contaminated(engine: Any) -> list[list[float]]:
    """The first workload as one causal prompt: what scores would be if items saw one another."""
    query, items = workload(0)
    answer = engine.generate(
        input_ids=query + [token for item in items for token in item],
        sampling_params={"max_new_tokens": 1, "temperature": 0},
        return_logprob=True,
        logprob_start_len=0,
        token_ids_logprob=LABELS,
    )
    rows = answer["meta_info"]["input_token_ids_logprobs"]  # entry i is what token i - 1 predicts
    ends = (QUERY + np.cumsum(ITEMS))[:-1]
    return [[float(np.exp(entry[0])) for entry in rows[end]] for end in ends]


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["attention"]:
        from isoprefill.integrations.sglang_jax import install

        install(attention=options["attention"])
    from sgl_jax.srt.entrypoints.engine import Engine

    engine = Engine(**options["engine"])
    results: dict[str, Any] = {"generations": generations(engine)}
    if options["attention"]:
        results |= multi_item(engine)
    else:
        results |= item_by_item(engine)
        results["contaminated"] = contaminated(engine)
    results["generations again"] = generations(engine)
    pathlib.Path(sys.argv[2]).write_text(json.dumps(results))
    engine.shutdown()


if __name__ == "__main__":  # sglang-jax spawns processes that import this file
    main()
