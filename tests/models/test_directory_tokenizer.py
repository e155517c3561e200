"""A Hugging Face directory's tokenizer makes the tokens that transformers makes of it.

If one of these fails, a score is that of another text than the one that was given.
"""

import json
import subprocess
import sys

import pytest
import tokenizers
from hypothesis import example, given, settings
from tokenizers import models, normalizers, processors
from transformers import AutoTokenizer

from byte_level_tokenizer import byte_tokenizer
from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.models.tokenizers.tokenizer_json import tokenizer_from_directory
from small_models import random_model
from tokenizer_texts import SENTENCES, sentencepiece_metadata, sweep


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
        "import sys; from isoprefill.models.sources.source import load_tokenizer; "
        "load_tokenizer('smollm2-135m'); sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_bos_must_exist_to_be_added():
    with pytest.raises(ValueError, match="adds_bos must be false when bos_id is None"):
        Tokenizer(byte_tokenizer(), bos_id=None, adds_bos=True)


def save_llama_tokenizer(directory, model_type, tokenizer_config):
    """A directory like Llama 2's: its tokenizer.json puts a space before any text."""
    made = tokenizer_from_gguf(sentencepiece_metadata()).backend
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


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({"added_tokens_decoder": {"257": {"content": "<|x|>", "special": True}}}, {}),
        (
            {
                "added_tokens_decoder": {
                    "258": {"content": "<|x|>", "special": False, "lstrip": True},
                    "257": {"content": "<|y|>", "special": True, "normalized": False},
                    "256": {"content": "<s>", "special": True},
                }
            },
            {},
        ),
        ({"pad_token": "<|y|>", "bos_token": "<s>", "eos_token": "<|x|>"}, {}),
        ({"pad_token": {"__type": "AddedToken", "content": "<|x|>", "rstrip": True}}, {}),
        ({"additional_special_tokens": ["<|x|>", "<|y|>", "<s>"]}, {}),
        ({"extra_special_tokens": {"image_token": "<|x|>"}, "pad_token": "<|y|>"}, {}),
        ({}, {"added_tokens.json": {"<|y|>": 258, "<|x|>": 257}}),
        ({"added_tokens_decoder": {}}, {"added_tokens.json": {"<|x|>": 257}}),
    ],
)
def test_tokens_named_outside_tokenizer_json_equal_transformers(tmp_path, config, others):
    """Else "<|x|>" would be cut into pieces that the model has never seen for it."""
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    for name, contents in {"tokenizer_config.json": config, **others}.items():
        (tmp_path / name).write_text(json.dumps(contents))
    ours, theirs = tokenizer_from_directory(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a<|x|>b", "a <|x|> <|y|> b<s>", "<|y|>"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids, text
        assert ours.encode(text, continues=True) == ours.encode(text)
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"300": {"content": "<|x|>"}}, r"gives the token '<\|x\|>' the id 300, .* has the id 257"),
        ({"97": {"content": "b"}}, r"gives the token 'b' the id 97, but .* id 65"),
        ({"x": {"content": "b"}}, r"added_tokens_decoder must hold tokens by their ids"),
        (["b"], r"added_tokens_decoder must hold tokens by their ids"),
        ({"257": {"content": 5}}, r"added_tokens_decoder\['257'\] must be a token, got .*5"),
    ],
)
def test_tokens_that_would_get_another_id_are_refused(tmp_path, config, message):
    """Another token's embedding would stand for it."""
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": config}))
    with pytest.raises(ValueError, match=message):
        tokenizer_from_directory(tmp_path)
