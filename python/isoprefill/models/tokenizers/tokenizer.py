"""Text to token ids and back. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tokenizers

from isoprefill.models.tokenizers.continuation import continuation_of

# Characters of texts that are tokenised in one call. Of more, all encodings together would take much memory.
SHORT_TEXTS = 16 << 10


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A model's tokenizer.

    A special token spelt out in text, such as "<|endoftext|>", becomes that token, as it does in transformers.

    Attributes:
        backend: the tokenizer of the `tokenizers` library; from here on without truncation and padding.
        bos_id: the token that begins a text, or None if the model has none.
        adds_bos: whether the model expects `bos_id` at the beginning. `encode` never adds it.
        continuation: `backend` for a text that continues another: it puts no space before it.

    Raises:
        ValueError: `adds_bos` without a `bos_id`.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None
    adds_bos: bool
    continuation: tokenizers.Tokenizer = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if self.adds_bos and self.bos_id is None:
            raise ValueError("adds_bos must be false when bos_id is None")
        self.backend.no_truncation()
        self.backend.no_padding()
        object.__setattr__(self, "continuation", continuation_of(self.backend))

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Returns the token ids of the text, no special tokens added before or after.

        What the vocabulary cannot spell (in SmolLM2's, some control characters) is dropped, as transformers does.

        Args:
            text: what to tokenise.
            continues: whether it continues another text. At the beginning of a text SentencePiece puts a space.

        Raises:
            ValueError: the text is not valid Unicode.
        """
        _check_unicode(text)
        # backend.encode keeps every other thread of the process waiting: 3.5 s for 2 MB of text.
        backend = self.continuation if continues else self.backend
        return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_each(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        """Returns the token ids of each text, as `encode` would: in one call if they are short.

        Raises:
            ValueError: one of the texts is not valid Unicode.
        """
        if sum(map(len, texts)) > SHORT_TEXTS:
            return [self.encode(text, continues=continues) for text in texts]
        if not all(map(str.isascii, texts)):
            for text in texts:
                _check_unicode(text)
        backend = self.continuation if continues else self.backend
        return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_places(self, text: str) -> list[tuple[int, int, int]]:
        """Returns the token ids of the text, as `encode` does, each with where its characters begin and end.

        Tokens that share a character both have its place.

        Raises:
            ValueError: the text is not valid Unicode.
        """
        _check_unicode(text)
        (found,) = self.backend.encode_batch([text], add_special_tokens=False)
        return [(token, *place) for token, place in zip(found.ids, found.offsets, strict=True)]

    def cut(self, text: str, most: int, keep: Literal["beginning", "end"] = "beginning") -> str:
        """Returns the longest beginning or end of the text that its tokens allow with at most so many of them.

        It is a part of the text as it stands, never one that tokens were decoded to: what a tokenizer normalises, drops
        or cannot spell stays as it was. No character is cut.

        Args:
            text: what to cut.
            most: tokens that are left, at least 0.
            keep: which part stays.

        Raises:
            ValueError: the text is not valid Unicode.
        """
        kept = most
        while text and len(self.encode(text)) > most:
            if not kept:
                return ""
            places = self.backend.encode_batch([text], add_special_tokens=False)[0].offsets
            first, last = (0, kept) if keep == "beginning" else (len(places) - kept, len(places))
            begin = places[first][0] if first else 0
            text = text[begin : places[last - 1][1] if last < len(places) else len(text)]
            # A character that the cut went through, or a part of a word alone, may be more tokens than were kept.
            kept -= 1
        return text

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of the tokens, special tokens written out. Incomplete UTF-8 becomes U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=False)

    def spellings(self, token_ids: Sequence[int]) -> list[str]:
        """Returns each token's text by itself, in which a part of a character is U+FFFD."""
        return self.backend.decode_batch(
            [[token] for token in token_ids], skip_special_tokens=False
        )

    @property
    def special_tokens(self) -> list[str]:
        """The spellings of the special tokens, which text is searched for as a whole."""
        added = self.backend.get_added_tokens_decoder().values()
        return [token.content for token in added if token.special]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The model's may be larger, for padding."""
        return self.backend.get_vocab_size(with_added_tokens=True)


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode, but has half of a surrogate pair, {text[error.start]!r}, at {error.start}"
        ) from error
