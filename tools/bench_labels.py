"""Times labels of several tokens against items that are repeated for each label: `bazel run //tools:bench_labels`.

Both read the same log-probabilities of random tokens. `one token` scores as many labels of one token each, which need
nothing but the items: what labels of several tokens cost beyond them. All three run in turns, over a new query each
time, and `x` compares medians with `branches`, our way.
"""

import statistics

import numpy as np
from absl import app, flags

import callers_directory
from benchmark import alternating_seconds, write_json
from isoprefill import LabelSets, ScoreOptions, ScoringEngine
from isoprefill.request.token_request import TokenRequest

_MODEL = flags.DEFINE_string("model", "smollm2-135m", "The model, as of `score`.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights.")
_QUERY = flags.DEFINE_integer("query", 300, "Tokens of the query.", lower_bound=1)
_ITEMS = flags.DEFINE_integer("items", 50, "Items.", lower_bound=1)
_ITEM_TOKENS = flags.DEFINE_integer("item-tokens", 20, "Tokens of an item.", lower_bound=1)
_LABELS = flags.DEFINE_integer("labels", 4, "Labels.", lower_bound=1)
_LABEL_TOKENS = flags.DEFINE_integer("label-tokens", 3, "Tokens of a label.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measured calls; the median counts.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")


def requests(vocab_size: int) -> dict[str, TokenRequest]:
    """Returns the same items and labels in each way. No two labels begin alike."""
    random = np.random.default_rng(0)

    def tokens(*shape: int) -> np.ndarray:
        return random.integers(100, vocab_size, shape, np.int32)

    items = tuple(tokens(_ITEMS.value, _ITEM_TOKENS.value))
    labels = tokens(_LABELS.value, _LABEL_TOKENS.value)
    labels[:, 0] = random.choice(vocab_size, len(labels), replace=False)
    query = tokens(_QUERY.value)
    branches = LabelSets(labels[None], in_sequence=True)
    of_each = LabelSets(np.tile(labels, (len(items), 1))[:, None], each=True, in_sequence=True)
    repeated = tuple(item for item in items for _ in labels)
    return {
        "branches": TokenRequest(query, items, ScoreOptions(labels=branches)),
        "repeated": TokenRequest(query, repeated, ScoreOptions(labels=of_each)),
        "one token": TokenRequest(
            query, items, ScoreOptions(labels=LabelSets(labels[None, :, :1]))
        ),
    }


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    engine = ScoringEngine.from_pretrained(_MODEL.value, _DTYPE.value, prefix_cache_bytes=0)
    made = requests(engine.model.config.vocab_size)
    logprobs = {
        name: engine.score_batch([request])[0].logprobs.reshape(_ITEMS.value, -1)
        for name, request in made.items()
    }
    difference = np.abs(logprobs["branches"] - logprobs["repeated"]).max()
    print(
        f"{engine.model.name}, {_DTYPE.value}, {_QUERY.value} + {_ITEMS.value} x {_ITEM_TOKENS.value}, "
        f"{_LABELS.value} labels of {_LABEL_TOKENS.value}; branches and repeated differ by at most {difference:.1e}"
    )
    seconds = alternating_seconds(
        {name: lambda one=one: engine.score_batch([one]) for name, one in made.items()},
        _REPEATS.value,
    )
    ours = statistics.median(seconds["branches"])
    print(f"{'':12}{'rows':>8}{'s':>10}{'x':>8}")
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row = {"way": name, "rows": made[name].num_rows, "seconds": median, "ratio": median / ours}
        rows.append(row)
        print(f"{name:12}{row['rows']:8}{median:10.3f}{row['ratio']:8.2f}")
    write_json(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)
