"""Text that continues another text is tokenised as what it is, not as the beginning of a text.

If one of these fails, an item of a SentencePiece model begins with a space that the whole text does not have there, and
its score is that of another text.
"""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from byte_level_tokenizer import byte_tokenizer
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.models.tokenizers import tokenizer as tokenizer_module
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.request.errors import RequestError
from isoprefill.request.model_limits import ModelLimits
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from tokenizer_texts import sentencepiece_metadata, sweep


def sentencepiece(normalizer=None, pre_tokenizer=None) -> Tokenizer:
    """A Llama-2-like tokenizer that marks spaces in one of several ways."""
    made = tokenizer_from_gguf(sentencepiece_metadata()).backend
    backend = tokenizers.Tokenizer(made.model)
    backend.decoder = made.decoder
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, bos_id=1, adds_bos=True)


KINDS = {
    "normaliser": lambda: sentencepiece(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    "metaspace first": lambda: sentencepiece(
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "metaspace always": lambda: sentencepiece(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="always", split=False)]
        )
    ),
    "GGUF": lambda: tokenizer_from_gguf(sentencepiece_metadata()),
}
TOKENS = sentencepiece_metadata()["tokenizer.ggml.tokens"]


@pytest.fixture(params=KINDS)
def preparer(request) -> Preparer:
    tokenizer = KINDS[request.param]()
    return Preparer(tokenizer, ModelLimits(tokenizer.vocab_size, 512, 4096, 64))


def pieces(tokens) -> list[str]:
    return [TOKENS[token] for token in tokens]


def test_an_item_gets_no_space_of_its_own(preparer):
    request = preparer.request("the", [" and", "and", "s of"])
    assert pieces(request.query) == ["<s>", "▁the"]
    assert [pieces(item) for item in request.items] == [["▁and"], ["and"], ["s", "▁of"]]


def test_item_first_puts_the_space_before_the_item(preparer):
    request = preparer.request(" of", ["and"], ScoreOptions(item_first=True))
    assert pieces(request.items[0]) == ["<s>", "▁and"]
    assert pieces(request.query) == ["▁of"]


def test_separate_tokens_are_joint_tokens_between_words(preparer):
    """Where no token crosses the border, both are the whole text's tokens."""

    @settings(sweep, max_examples=60)
    @given(st.lists(st.sampled_from(["the", "and", "of", "a"]), min_size=2, max_size=6))
    def check(words):
        query, item = words[0], "".join(f" {word}" for word in words[1:])
        separate = preparer.request(query, [item])
        joint = preparer.request(query, [item], ScoreOptions(tokenization="joint"))
        assert separate.query.tolist() == joint.query.tolist()
        assert separate.items[0].tolist() == joint.items[0].tolist()
        whole = [1, *preparer.tokenizer.encode(query + item)]
        assert [*separate.query.tolist(), *separate.items[0].tolist()] == whole

    check()


def test_labels_continue_the_item(preparer):
    """With a space of their own they would be two tokens or three, and rerank unavailable."""
    assert TOKENS[preparer.label_id(" and")] == "▁and"
    assert TOKENS[preparer.label_id("and")] == "and"
    assert [TOKENS[one] for one in preparer.labels([" of", "of"]).token_ids[0, :, 0]] == [
        "▁of",
        "of",
    ]


def test_special_tokens_keep_their_ids_in_a_continuation(preparer):
    assert preparer.tokenizer.encode("a</s>", continues=True)[-1] == 2
    assert preparer.tokenizer.encode("<unk>", continues=True) == [0]


def test_white_space_of_an_item_is_not_stripped():
    """A normaliser that strips a text's beginning must not strip an item's."""
    backend = byte_tokenizer()
    backend.normalizer = normalizers.Strip()
    tokenizer = Tokenizer(backend, bos_id=None, adds_bos=False)
    assert tokenizer.encode(" a ") == tokenizer.encode("a")
    assert len(tokenizer.encode(" a", continues=True)) == 2


def test_byte_level_prefix_space_is_only_a_texts():
    backend = byte_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = Tokenizer(backend, bos_id=None, adds_bos=False)
    assert [len(tokenizer.encode("ab", continues=continues)) for continues in (False, True)] == [
        3,
        2,
    ]


def test_added_tokens_of_a_continuation_keep_their_ids():
    """Added tokens that are not in the vocabulary get ids in the order in which they are added."""
    backend = byte_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.add_tokens(["<z>", "<y>"])
    backend.add_special_tokens(["<x>"])
    tokenizer = Tokenizer(backend, bos_id=None, adds_bos=False)
    assert tokenizer.encode("<x><y><z><s>", continues=True) == [259, 258, 257, 256]


def test_a_tokenizer_without_such_rules_is_its_own_continuation():
    """Else every byte-level tokenizer would be held twice."""
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.continuation is tokenizer.backend


@pytest.mark.parametrize("item_first", [False, True])
def test_items_that_are_tokenised_in_one_call_are_tokenised_alike(
    preparer, item_first, monkeypatch
):
    """Texts of any script, however many: an item's tokens must not depend on the items beside it."""
    options = ScoreOptions(item_first=item_first)
    texts = [" the and", "of", "naïve e\u0301", "北京市 🙂", "<s> x</s>", "\u00a0 \n", "the" * 200]
    together = preparer.request("the", texts, options).items
    alone = [preparer.request("the", [text], options).items[0] for text in texts]
    encoded = preparer.tokenizer.encode_each(texts, continues=True)
    assert encoded == [preparer.tokenizer.encode(text, continues=True) for text in texts]
    monkeypatch.setattr(tokenizer_module, "SHORT_TEXTS", 0)
    one_by_one = preparer.request("the", texts, options).items
    for each in (alone, one_by_one):
        assert [item.tolist() for item in together] == [item.tolist() for item in each]
    with pytest.raises(RequestError, match=r"items\[2\]"):
        preparer.request("the", ["a", "b", "\ud800"], options)
