"""POST /v1/completions as evaluation harnesses use it: log-probabilities of prompts, and nothing that generates."""

import numpy as np
import pytest

from api_answers import code_of
from byte_level_tokenizer import byte_tokenizer
from http_oracle import MODEL, log_probabilities, tokens_of
from huggingface_directory import save_directory
from in_process_service import Client, in_process_service
from isoprefill.execution.engine import ScoringEngine
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.server import completions

SHARED = "The same beginning of several prompts"
PROMPTS = [
    "a",
    "ab",
    f"{SHARED}, one",
    f"{SHARED}; another one",
    "a",
    f"{SHARED[:30]}...",
    "zz top",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    model = str(save_directory(MODEL, tmp_path_factory.mktemp("model") / "tiny"))
    return Client(in_process_service(ScoringEngine.from_pretrained(model), model))


def text_of(tokens: list[int]) -> str:
    return Tokenizer(byte_tokenizer(), None, False).decode(tokens)


def as_tokens(prompts):
    return [tokens_of(prompt) for prompt in prompts]


@pytest.mark.parametrize("prompts", [PROMPTS, as_tokens(PROMPTS)], ids=["text", "tokens"])
def test_log_probabilities_of_prompts_equal_the_oracles(client, prompts):
    """As lm-evaluation-harness asks: echo, one log-probability, and a next token that it drops."""
    answer = client.post(
        "/v1/completions",
        prompt=prompts,
        echo=True,
        logprobs=1,
        max_tokens=1,
        temperature=0,
        seed=1,
    ).json()
    assert [one["index"] for one in answer["choices"]] == list(range(len(PROMPTS)))
    for choice, prompt in zip(answer["choices"], PROMPTS, strict=True):
        tokens = tokens_of(prompt)
        after = log_probabilities(tokens)
        tokens.append(int(after[-1].argmax()))
        assert choice["text"] == text_of(tokens)
        read = choice["logprobs"]
        assert read["tokens"] == [text_of([token]) for token in tokens]
        assert read["token_logprobs"][0] is None
        assert read["top_logprobs"][0] is None
        expected = [after[place, token] for place, token in enumerate(tokens[1:])]
        assert read["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
        for top, row, own in zip(
            read["top_logprobs"][1:], after, read["token_logprobs"][1:], strict=True
        ):
            assert max(top.values()) == pytest.approx(row.max(), abs=1e-3)
            assert own in top.values()
            assert max(top, key=top.get) == text_of([int(row.argmax())])
        # The harness calls a continuation greedy if each of its tokens has the largest log-probability.
        greedy = [
            own == max(top.values())
            for own, top in zip(read["token_logprobs"][1:], read["top_logprobs"][1:], strict=True)
        ]
        assert greedy == [
            token == row.argmax() for token, row in zip(tokens[1:], after, strict=True)
        ]
    number = sum(len(tokens_of(prompt)) for prompt in PROMPTS)
    assert answer["usage"] == {
        "prompt_tokens": number,
        "completion_tokens": len(PROMPTS),
        "total_tokens": number + len(PROMPTS),
    }


def test_without_a_next_token(client):
    with_next = client.post(
        "/v1/completions", prompt=PROMPTS, echo=True, logprobs=1, max_tokens=1
    ).json()
    without = client.post(
        "/v1/completions", prompt=PROMPTS, echo=True, logprobs=0, max_tokens=0
    ).json()
    for one, other, prompt in zip(with_next["choices"], without["choices"], PROMPTS, strict=True):
        assert other["text"] == prompt
        assert other["logprobs"]["token_logprobs"] == one["logprobs"]["token_logprobs"][:-1]
        assert other["logprobs"]["top_logprobs"] is None
        assert other["logprobs"]["text_offset"] == list(range(len(prompt)))
    bare = client.post("/v1/completions", prompt="ab", max_tokens=1).json()["choices"]
    assert bare == [
        {
            "index": 0,
            "text": text_of([int(log_probabilities(tokens_of("ab"))[-1].argmax())]),
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert (
        client.post("/v1/completions", prompt="a", max_tokens=0).json()["choices"][0]["text"] == ""
    )


def test_prompts_that_begin_alike_are_computed_together():
    """A harness sends one question with several answers: the question is computed twice at most, not once for each."""
    prompts = as_tokens([f"{SHARED} and more {answer}" for answer in ("one", "two", "one of", "x")])
    prompts += as_tokens(["short", "short one", SHARED[:20]])
    groups = {tuple(sorted(indices)): shared for indices, shared in completions._groups(prompts)}
    assert groups == {
        (0, 1, 2, 3): len(tokens_of(f"{SHARED} and more ")),
        (4,): 1,
        (5,): 1,
        (6,): 1,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 2},
        {"max_tokens": ...},
        {"max_tokens": None},
        {"max_tokens": 1, "temperature": 0.7},
        {"n": 2},
        {"stream": True},
        {"logprobs": 5},
        {"prompt": ...},
        {"prompt": 5},
        {"prompt": ["a", 5]},
    ],
    ids=str,
)
def test_what_would_be_generation_is_refused(client, change):
    """An answer that is cut short, or not sampled as was asked, would be taken for the model's."""
    body = {"prompt": "abc", "max_tokens": 0, "echo": True, "logprobs": 1} | change
    body = {name: value for name, value in body.items() if value is not ...}
    refused = client.post("/v1/completions", **body)
    assert code_of(refused) == "invalid_parameter_type"
    assert refused.json()["error"]["param"].startswith(list(change)[-1])


def test_errors_name_prompts_by_their_places(client):
    for prompts, code, param in (
        (["ab", ""], "empty_item", "prompt[1]"),
        ([[5], [300]], "token_id_exceeds_vocab", "prompt[1][0]"),
        (["z" * 20, "a" * 600, "b"], "context_length_exceeded", "prompt[1]"),
        (["a"] * 5000, "too_many_items", "prompt"),
    ):
        refused = client.post("/v1/completions", prompt=prompts, max_tokens=0, echo=True)
        assert code_of(refused) == code
        assert refused.json()["error"]["param"] == param


def test_the_first_of_equal_tokens_is_the_likeliest(client):
    """With both back ends of the head: the same place, not any place, whatever the order of threads."""
    logits = np.zeros((2, 4), np.float32)
    import jax

    from isoprefill.models.decoder.head import LARGEST_LOGPROB, LARGEST_TOKEN, _by_xla

    ids = np.asarray([[LARGEST_TOKEN, LARGEST_LOGPROB, 3]] * 2, np.int32)
    read = np.asarray(jax.jit(_by_xla)(logits, ids))
    np.testing.assert_allclose(read, [[0, -np.log(4), -np.log(4)]] * 2, atol=1e-6)
