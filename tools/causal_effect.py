"""Measures how much plain causal attention over a packed list changes rankings.

Ranks the items of 60 queries (ranking_queries.json, written for this) with isolation and with causal attention, by
likelihood and by likelihood per token, and compares the rankings. A query's items are the answers of its group, in
random order. Prints a Markdown table.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

import callers_directory
from benchmark import write_json
from isoprefill import ScoringEngine
from isoprefill.models.sources.pinned import FetchError

_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the order of the items.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Write the results of each query to this file, as JSON."
)

QUERIES = pathlib.Path(__file__).with_name("ranking_queries.json")


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns Spearman's correlation, which is that of the ranks."""
    ranks = [np.argsort(np.argsort(-scores, kind="stable")) for scores in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def compare(
    engine: ScoringEngine, query: str, items: Sequence[str], answer: str
) -> dict[str, dict[str, float | bool]]:
    """Compares isolated and causal rankings of one query's items, by likelihood and by likelihood per token."""
    isolated = engine.score(query, items)
    causal = engine.score(query, items, isolation="causal")
    backward = engine.score(query, items[::-1], isolation="causal")
    right = items.index(answer)
    return {
        name: {
            "rank_correlation": rank_correlation(one, other),
            "top_1_flipped": bool(one.argmax() != other.argmax()),
            "top_1_depends_on_order": bool(other.argmax() != reverse[::-1].argmax()),
            "isolated_is_right": bool(one.argmax() == right),
            "causal_is_right": bool(other.argmax() == right),
            "mean_change": float(np.abs(one - other)[1:].mean()),
        }
        for name, one, other, reverse in (
            ("likelihood", isolated.scores, causal.scores, backward.scores),
            ("per token", isolated.mean_logprobs, causal.mean_logprobs, backward.mean_logprobs),
        )
    }


def table(results: list[dict]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each group and way of scoring."""
    lines = [
        "| queries | scored by | n | rank correlation, mean (least) | top-1 flipped | top-1 changes with the order | "
        "right, isolated | right, causal | mean change of a score |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = [*dict.fromkeys(result["group"] for result in results), "all"]
    for group in groups:
        chosen = [result for result in results if group in (result["group"], "all")]
        for name in ("likelihood", "per token"):
            columns = {
                key: np.array([result[name][key] for result in chosen], float)
                for key in chosen[0][name]
            }
            correlation = columns["rank_correlation"]
            shares = [
                f"{columns[key].mean():.0%}"
                for key in (
                    "top_1_flipped",
                    "top_1_depends_on_order",
                    "isolated_is_right",
                    "causal_is_right",
                )
            ]
            lines.append(
                f"| {group} | {name} | {len(chosen)} | {correlation.mean():.2f} ({correlation.min():.2f}) | "
                f"{' | '.join(shares)} | {columns['mean_change'].mean():.2f} |"
            )
    return lines


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    try:
        engine = ScoringEngine.from_pretrained(_MODEL.value)
    except (ValueError, OSError, FetchError) as error:
        raise app.UsageError(str(error)) from None
    random = np.random.default_rng(_SEED.value)
    results = []
    for group, content in json.loads(QUERIES.read_text()).items():
        answers = [answer for _, answer in content["pairs"]]
        for query, answer in content["pairs"]:
            items = [answers[index] for index in random.permutation(len(answers))]
            results.append(
                {"group": group, "query": query, **compare(engine, query, items, answer)}
            )
    print("\n".join(table(results)))
    write_json(_OUTPUT.value, results)


if __name__ == "__main__":
    app.run(main)
