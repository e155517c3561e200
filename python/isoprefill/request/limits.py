"""How many tokens a request may have. Importing this does not import jax."""

import dataclasses
import sys

from isoprefill.request.errors import RequestError
from isoprefill.request.token_request import TokenRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """The most tokens of one item, and of a query and its items together; with item_first the query counts for each."""

    max_item_tokens: int = sys.maxsize
    max_request_tokens: int = sys.maxsize

    def check(self, request: TokenRequest) -> None:
        """Raises RequestError if an item, or the whole request, has too many tokens."""
        lens = request.item_lens
        if lens.max() > self.max_item_tokens:
            index = int((lens > self.max_item_tokens).argmax())
            raise RequestError(
                "too_many_tokens", "items", index, limit=self.max_item_tokens, value=lens[index]
            )
        number = request.num_computed_tokens
        if number > self.max_request_tokens:
            rule = "item_first" if request.options.item_first else "request"
            raise RequestError(
                f"too_many_tokens.{rule}", "items", limit=self.max_request_tokens, value=number
            )
