"""A rerank prompt that is cut before its document has the tokens of the whole prompt.

If one of these fails, documents are scored on tokens that no model was trained with.
"""

import pytest

from isoprefill.models.files.gguf_header import read_header
from isoprefill.models.sources import pinned
from isoprefill.models.sources.source import load_tokenizer
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.rerank.prompt import Prompt, continues, encode_pieces
from isoprefill.rerank.template import lay_out
from tokenizer_texts import sentencepiece_metadata


def smollm2_with_rule_of(pre: str) -> Tokenizer:
    metadata = dict(read_header(pinned.locate("smollm2-135m")).metadata)
    return tokenizer_from_gguf(metadata | {"tokenizer.ggml.pre": pre})


TOKENIZERS = {
    "SmolLM2": lambda: load_tokenizer("smollm2-135m"),
    "Llama 3": lambda: smollm2_with_rule_of("llama-bpe"),
    "GPT-4o": lambda: smollm2_with_rule_of("gpt-4o"),
    "SentencePiece": lambda: tokenizer_from_gguf(sentencepiece_metadata()),
}
DOCUMENTS = ["(a)", "an apple", "ld", " (x)", "\n\n\nand", "123", "'s", "::", "  the", ""]


@pytest.mark.parametrize("rule", TOKENIZERS)
@pytest.mark.parametrize(
    "template",
    [
        "Is this about {{ query }}?\nText: {{ document }}\nAnswer:",
        "Question {{ query }} Text:{{ document }}",  # a symbol that joins a document's first
        "{{ query }} of Text: {{ document }}\nAnswer:",
        "{{ query }}: the wor{{ document }}, and",  # a letter that joins a document's first word
        "{{ query }} is it?\n{{ document }}\n\n",  # a line break that joins the symbol before it
        "{{ query }} Text:\n\n{{ document }}",
    ],
)
def test_tokens_are_those_of_the_whole_prompt(rule, template):
    tokenizer = TOKENIZERS[rule]()
    prompt = Prompt.of(lay_out(template, None).without, scores_query=False)
    for document in DOCUMENTS:
        texts = {"query": "fruit", "document": document, "instruction": ""}
        head = encode_pieces(tokenizer, prompt.head, texts, untrusted=False)
        continuing = continues(prompt.head)
        item = encode_pieces(tokenizer, prompt.item, texts, untrusted=False, continuing=continuing)
        whole = template.replace("{{ query }}", "fruit").replace("{{ document }}", document)
        assert head + item == tokenizer.encode(whole), document


def test_what_follows_a_boundary_begins_a_text():
    """Programs that tokenise the pieces one by one give each its own beginning."""
    tokenizer = TOKENIZERS["SentencePiece"]()
    template = "the {{ query }}{{ boundary }}and {{ document }}{{ boundary }}of"
    prompt = Prompt.of(lay_out(template, None).without, scores_query=False)
    texts = {"query": "a", "document": "b", "instruction": ""}
    head = encode_pieces(tokenizer, prompt.head, texts, untrusted=False)
    assert head == tokenizer.encode("the a") + tokenizer.encode("and")
    item = encode_pieces(
        tokenizer, prompt.item, texts, untrusted=False, continuing=continues(prompt.head)
    )
    assert item == tokenizer.encode(" b", continues=True) + tokenizer.encode("of")
