"""What holds for all jobs of one reranker, whatever its preset."""

import dataclasses
import sys

from isoprefill.modes import Delimiter
from isoprefill.request.limits import TokenLimits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How jobs become requests.

    Attributes:
        untrusted_text: special tokens in the texts are ordinary text, unless a job says.
        delimiter: whether a token stands between documents (`ScoreOptions.delimiter`).
        delimiter_id: that token.
        limits: on tokens.
        max_characters: of a job's prompts together, beside the documents.
    """

    untrusted_text: bool = True
    delimiter: Delimiter = "none"
    delimiter_id: int | None = None
    limits: TokenLimits = dataclasses.field(default_factory=TokenLimits)
    max_characters: int = sys.maxsize
