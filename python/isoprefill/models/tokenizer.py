"""Text to token ids and back. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence

import tokenizers

from isoprefill.models.continuation import continuation_of


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
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be valid Unicode, but has {text[error.start]!r} at {error.start}"
            ) from error
        # backend.encode keeps every other thread of the process waiting: 3.5 s for 2 MB of text.
        backend = self.continuation if continues else self.backend
        return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of the tokens, special tokens written out. Incomplete UTF-8 becomes U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The model's may be larger, for padding."""
        return self.backend.get_vocab_size(with_added_tokens=True)
