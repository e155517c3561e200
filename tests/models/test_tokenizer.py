"""Text becomes the tokens that the model was trained on, and those that transformers makes of the same file.

If one of these fails, a score is that of another text than the one that was given.
"""

import itertools
import json
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers.integrations.gguf import convert_gguf_tokenizer

from isoprefill.models import pinned
from isoprefill.models.gguf_header import read_header
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.source import load_tokenizer
from isoprefill.models.tokenizer import Tokenizer
from isoprefill.models.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.models.tokenizer_json import tokenizer_from_directory
from small_models import byte_tokenizer, random_model, save_directory, save_gguf

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<jupyter_code>"]
FRAGMENTS = [
    *SPECIAL,
    *("<|im_start", "|>", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u200b"),
    *("Paris", " Paris", "don't", "WE'LL", "naïve", "e\u0301", "北京市", "ไทย", "नमस्ते", "مرحبا"),
    *("🙂", "👩‍👩‍👧", "🇫🇷", "0", "42", "1234567", "3.14", "½", "Ⅻ", "٣", "²", "x = y + 1;", "----"),
]
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.text(max_size=60),
    st.text("ab '\n\t.019", max_size=40),
)
sweep = settings(derandomize=True, deadline=None, max_examples=400)


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return load_tokenizer("smollm2-135m")


@pytest.fixture(scope="module")
def theirs():
    path = pinned.locate("smollm2-135m")
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="module")
def published(theirs) -> tokenizers.Tokenizer:
    """transformers' tokenizer with the rule that SmolLM2 was trained with: each digit is a word."""
    backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return backend


def without_space_before_numbers(text: str) -> str:
    """Drops the white space on which transformers' reading of GGUF differs from SmolLM2's own."""
    numbers = "".join({c for c in text if unicodedata.category(c).startswith("N")})
    return re.sub(rf"\s+(?=[{re.escape(numbers)}])", "", text) if numbers else text


def test_tokens_equal_transformers(ours, theirs):
    @sweep
    @given(TEXT.map(without_space_before_numbers))
    def check(text):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids

    check()


def test_tokens_equal_the_published_tokenizer(ours, published):
    @sweep
    @given(TEXT)
    @example("  6\n\n7 8")
    def check(text):
        assert ours.encode(text) == published.encode(text, add_special_tokens=False).ids

    check()


def test_spaces_before_a_digit_stay_together(ours):
    """SmolLM2 takes digits one by one before words; reading it as GPT-2 would cut "  6" after one space."""
    spaces, digit = ours.encode("x  6")[1:]
    assert ours.decode([spaces]) == "  "
    assert ours.decode([digit]) == "6"


def test_text_survives_a_round_trip(ours):
    # SmolLM2's vocabulary cannot spell some control characters, nor the planes above 1.
    ordinary = st.characters(max_codepoint=0x1FFFF, exclude_categories=("Cc", "Cn", "Co", "Cs"))

    @sweep
    @given(st.one_of(st.lists(st.sampled_from(FRAGMENTS)).map("".join), st.text(ordinary)))
    def check(text):
        assert ours.decode(ours.encode(text)) == text

    check()


def test_known_tokens(ours):
    assert ours.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert ours.encode("") == []
    assert ours.vocab_size == 49152


def test_special_token_spelt_out_in_text_becomes_that_token(ours, theirs):
    """As transformers does it; `special_token_ids` lets a caller refuse such text."""
    ids = ours.encode("a<|im_end|>b")
    assert ids == theirs("a<|im_end|>b").input_ids
    assert ids[1] == 2
    assert len(ids) == 3
    special = {index for index, token in theirs.added_tokens_decoder.items() if token.special}
    assert ours.special_token_ids == special == set(range(17))


def test_bos_is_known_but_not_added_by_smollm2(ours, theirs):
    assert not ours.adds_bos
    assert ours.bos_id == theirs.bos_token_id == 1


def test_lone_surrogate_is_refused(ours):
    with pytest.raises(ValueError, match=r"valid Unicode.*'\\ud83d' at 2"):
        ours.encode("ab\ud83d")


@pytest.mark.parametrize("pre", ["gpt-2", "default", "llama-bpe", "qwen2"])
def test_other_pre_tokenizers_equal_transformers(pre):
    """On SmolLM2's vocabulary with merged digits, so that words cut elsewhere give other tokens."""
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    pairs = [(left, right) for left in "0123456789" for right in "0123456789"]
    metadata["tokenizer.ggml.pre"] = pre
    metadata["tokenizer.ggml.tokens"] += [left + right for left, right in pairs]
    metadata["tokenizer.ggml.token_type"] += [1] * len(pairs)
    metadata["tokenizer.ggml.merges"] += [f"{left} {right}" for left, right in pairs]
    ours = tokenizer_from_gguf(metadata)
    theirs, _ = convert_gguf_tokenizer(
        "llama",
        {
            "tokenizer_type": "gpt2",
            "pre_tokenizer_type": pre,
            "tokens": metadata["tokenizer.ggml.tokens"],
            "token_type": metadata["tokenizer.ggml.token_type"],
            "merges": metadata["tokenizer.ggml.merges"],
        },
    )
    # Qwen2's own tokenizer composes characters first, which transformers does not do for GGUF.
    text = TEXT.map(lambda text: unicodedata.normalize("NFC", text)) if pre == "qwen2" else TEXT

    @settings(sweep, max_examples=200)
    @given(text)
    @example("1234567 don't WE'LL  \n\n x")
    def check(text):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids

    check()


def test_qwen2_composes_characters_first():
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    qwen2 = tokenizer_from_gguf(metadata | {"tokenizer.ggml.pre": "qwen2"})
    assert qwen2.encode("e\u0301") == qwen2.encode("\u00e9")


def test_llama3_takes_a_whole_word_of_its_vocabulary_before_merging():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "bc", "abc", "<s>"],
        "tokenizer.ggml.token_type": [1] * 6 + [3],
        "tokenizer.ggml.merges": ["b c", "a b"],  # never reach "abc"
        "tokenizer.ggml.bos_token_id": 6,
    }
    llama3 = tokenizer_from_gguf(metadata)
    assert llama3.encode("abc") == [5]
    assert llama3.adds_bos, "llama-bpe files that do not say so expect BOS"
    assert not tokenizer_from_gguf(metadata | {"tokenizer.ggml.add_bos_token": False}).adds_bos


def test_user_defined_token_is_matched_whole_but_is_not_special():
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "<think>", "Ġ"],
        "tokenizer.ggml.token_type": [1, 1, 4, 1],
        "tokenizer.ggml.merges": ["a b"],
    }
    metadata["tokenizer.ggml.tokens"].append("ab")
    metadata["tokenizer.ggml.token_type"].append(1)
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode("ab<think>b") == [4, 2, 1]
    assert tokenizer.special_token_ids == frozenset()
    assert tokenizer.bos_id is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, r"tokenizer\.ggml\.model 't5' is not supported"),
        ({"tokenizer.ggml.pre": "tekken"}, r"tokenizer\.ggml\.pre 'tekken'.*supported: .*smollm"),
        ({"tokenizer.ggml.merges": ["a x"]}, r"tokenizer\.ggml\.merges does not fit"),
        ({"tokenizer.ggml.merges": []}, r"no tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.tokens": None}, r"no tokenizer\.ggml\.tokens"),
    ],
)
def test_gguf_tokenizer_that_cannot_be_built_is_refused(change, message):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }
    with pytest.raises(ValueError, match=message):
        tokenizer_from_gguf(metadata | change)


def save_tokenizer(directory, *, template: bool, **config) -> None:
    backend = byte_tokenizer()
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 256)]
        )
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("bos", ["<s>", {"__type": "AddedToken", "content": "<s>"}])
@pytest.mark.parametrize("add", [None, True, False])
def test_directory_tokenizer_equals_transformers(tmp_path, template, bos, add):
    """The template in tokenizer.json decides about BOS, whatever tokenizer_config.json says."""
    flag = {} if add is None else {"add_bos_token": add}
    save_tokenizer(tmp_path, template=template, bos_token=bos, **flag)
    ours, theirs = tokenizer_from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = "longer than the stored truncation"
    with_bos = ([ours.bos_id] if ours.adds_bos else []) + ours.encode(text)
    assert with_bos == theirs(text, truncation=False, padding=False).input_ids
    assert ours.bos_id == 256


def test_directory_tokenizer_needs_tokenizer_json(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        tokenizer_from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        tokenizer_from_directory(tmp_path)


def test_load_tokenizer_gives_the_models_tokenizer(tmp_path):
    oracle = random_model("llama")
    for source in (save_directory(oracle, tmp_path), save_gguf(oracle, tmp_path / "small.gguf")):
        text = "The quick brown fox, 北京"
        assert load_tokenizer(source).encode(text) == load_pretrained(source).tokenizer.encode(text)


def test_loading_a_tokenizer_does_not_import_jax():
    """A server's front end tokenises; it must never touch a device."""
    program = (
        "import sys; from isoprefill.models.source import load_tokenizer; "
        "load_tokenizer('smollm2-135m'); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_bos_must_exist_to_be_added():
    with pytest.raises(ValueError, match="adds_bos must be false when bos_id is None"):
        Tokenizer(byte_tokenizer(), bos_id=None, adds_bos=True)


def sentencepiece_metadata(**changes: object) -> dict[str, object]:
    """A SentencePiece vocabulary made of SmolLM2's first lower-case words, best first."""
    smollm2 = read_header(pinned.locate("smollm2-135m")).metadata["tokenizer.ggml.tokens"]
    words = [token.replace("Ġ", "▁") for token in smollm2[17:9000]]
    words = [word for word in words if re.fullmatch(r"▁*[a-z.,']*", word)]
    control, unknown, single_byte, normal = 3, 2, 6, 1
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [unknown, control, control]
        + [single_byte] * 256
        + [normal] * len(words),
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(words))],
        "tokenizer.ggml.bos_token_id": 1,
    } | changes


SENTENCES = st.one_of(TEXT, st.text("the and. of", max_size=40))


def test_sentencepiece_tokens_equal_transformers():
    metadata = sentencepiece_metadata()
    ours = tokenizer_from_gguf(metadata)
    names = {"tokenizer_type": "model", "tokens": "tokens", "scores": "scores"}
    names["token_type"] = "token_type"
    theirs, _ = convert_gguf_tokenizer(
        "llama", {theirs: metadata[f"tokenizer.ggml.{ours}"] for theirs, ours in names.items()}
    )

    @sweep
    @given(SENTENCES)
    @example("the capital of the country")
    @example("a</s> the <unk>")
    def check(text):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids

    check()
    assert ours.adds_bos
    assert ours.bos_id == 1


def save_llama_tokenizer(directory, model_type, tokenizer_config):
    """A directory like Llama 2's: its tokenizer.json puts a space before any text."""
    made = tokenizer_from_gguf(sentencepiece_metadata())._backend
    backend = tokenizers.Tokenizer(models.BPE())
    backend.model = made.model
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = made.decoder
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names | tokenizer_config))


@pytest.mark.parametrize(
    ("model_type", "tokenizer_config", "spaced"),
    [
        ("llama", {"tokenizer_class": "LlamaTokenizer"}, ["▁the", "▁and"]),
        ("llama", {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}, ["▁the", "▁and"]),
        ("llama", {"tokenizer_class": "LlamaTokenizer", "legacy": True}, ["▁the", "▁and"]),
        (
            "llama",
            {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
            ["▁the", "▁and"],
        ),
        ("qwen3", {"tokenizer_class": "LlamaTokenizer"}, ["▁the", "▁and"]),
        ("mistral", {"tokenizer_class": "LlamaTokenizer"}, ["▁", "▁the", "▁and"]),
        ("llama", {"tokenizer_class": "PreTrainedTokenizerFast"}, ["▁", "▁the", "▁and"]),
        ("llama", {}, ["▁", "▁the", "▁and"]),
    ],
)
def test_space_before_a_text_depends_on_the_class(tmp_path, model_type, tokenizer_config, spaced):
    """transformers rebuilds a LlamaTokenizer, and takes other classes from tokenizer.json as they are."""
    save_llama_tokenizer(tmp_path, model_type, tokenizer_config)
    ours, theirs = tokenizer_from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = sentencepiece_metadata()["tokenizer.ggml.tokens"]
    assert [vocabulary[i] for i in ours.encode(" the and")] == spaced

    @settings(sweep, max_examples=100)
    @given(SENTENCES)
    @example("the and")
    @example("  the")
    @example("a</s>the</s> and")
    def check(text):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids

    check()


def test_llama_class_leaves_a_byte_level_tokenizer_as_it_is(tmp_path):
    """Llama 3's files, of which some name that class."""
    save_tokenizer(tmp_path, template=False, tokenizer_class="LlamaTokenizer")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    ours, theirs = tokenizer_from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = " the and"
    assert ours.encode(text) == theirs(text, truncation=False, padding=False).input_ids
    assert len(ours.encode(text)) == len(text)


def test_sentencepiece_joins_the_best_pair_first():
    """Against SentencePiece's own rule, which knows no merges."""
    metadata = sentencepiece_metadata(**{"tokenizer.ggml.add_space_prefix": False})
    ours = tokenizer_from_gguf(metadata)
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    score = {token: value for token, value in zip(tokens, scores, strict=True) if token[0] != "<"}

    @sweep
    @given(st.text("the and.of", max_size=30))
    @example("the capital of the country")
    def check(text):
        pieces = list(text.replace(" ", "▁"))
        while True:
            joint = [score.get(a + b, -np.inf) for a, b in itertools.pairwise(pieces)]
            if not joint or max(joint) == -np.inf:
                break
            best = joint.index(max(joint))
            pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
        assert [tokens[i] for i in ours.encode(text)] == pieces

    check()


def test_sentencepiece_text_survives_a_round_trip():
    for adds_space in (True, False):
        metadata = sentencepiece_metadata(**{"tokenizer.ggml.add_space_prefix": adds_space})
        ours = tokenizer_from_gguf(metadata)
        for text in ("the end", "and so, on", "北京 🙂 Größe", ""):
            assert ours.decode(ours.encode(text)) == text
        # A text gets a leading space unless it has one, so with `adds_space` the two are the same.
        assert ours.decode(ours.encode(" and")) == ("and" if adds_space else " and")


def test_sentencepiece_needs_a_score_for_each_token():
    with pytest.raises(ValueError, match=r"scores must have one score for each of the \d+ tokens"):
        tokenizer_from_gguf(sentencepiece_metadata(**{"tokenizer.ggml.scores": [0.0]}))
