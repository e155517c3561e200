"""Texts that tokenizers are compared on, and a SentencePiece vocabulary."""

import re

from hypothesis import settings
from hypothesis import strategies as st

from isoprefill.models.files.gguf_header import read_header
from isoprefill.models.sources import pinned

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
SENTENCES = st.one_of(TEXT, st.text("the and. of", max_size=40))


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
