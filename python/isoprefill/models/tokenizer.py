"""Text to token ids and back. Importing this does not import jax."""

from collections.abc import Sequence

import tokenizers


class Tokenizer:
    """A model's tokenizer.

    A special token spelt out in text, such as "<|endoftext|>", becomes that token, as it does in
    transformers. Text from people who must not be able to write control tokens has to be checked
    before it comes here (`special_token_ids` says which they are).

    Attributes:
        bos_id: the token that begins a text, or None if the model has none.
        adds_bos: whether the model expects `bos_id` at the beginning. `encode` never adds it.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, bos_id: int | None, adds_bos: bool
    ) -> None:
        """Wraps a tokenizer.

        Args:
            backend: the tokenizer of the `tokenizers` library.
            bos_id: the token that begins a text, if the model has one.
            adds_bos: whether the model expects it.

        Raises:
            ValueError: `adds_bos` without a `bos_id`.
        """
        if adds_bos and bos_id is None:
            raise ValueError("adds_bos must be false when bos_id is None")
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_id = bos_id
        self.adds_bos = adds_bos

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, nothing added before or after.

        What the vocabulary cannot spell (in SmolLM2's, some control characters) is dropped, as
        transformers does.

        Raises:
            ValueError: the text is not valid Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be valid Unicode, but has {text[error.start]!r} at {error.start}"
            ) from error
        # Backend.encode keeps every other thread of the process waiting: 3.5 s for 2 MB of text.
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the tokens, special tokens written out. Incomplete UTF-8 becomes U+FFFD."""
        return self._backend.decode(list(token_ids), skip_special_tokens=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The model's may be larger, for padding."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of control tokens, which text can spell out."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)
