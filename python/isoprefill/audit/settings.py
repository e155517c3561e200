"""The settings of an audit."""

import dataclasses

from isoprefill.audit import texts

MAX_REPEATS = 100
MAX_ITEMS = 10_000
MAX_WORDS = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class AuditSettings:
    """The settings of an audit.

    Attributes:
        repeats: requests for each measurement of noise, and for every measurement if there is noise.
        tolerance: smaller differences of log scores never count.
        max_items: items of the longest list.
        max_words: words of the longest query; halved until the server accepts it.
        delimiter_texts: possible delimiters, which one probe puts into an item.
        delimiter_token_id: the server's delimiter, which it puts into an item of token ids.
        compare_tolerance: two servers agree if their log scores differ by at most this. The default is what SGLang's
            own tests allow; with bfloat16 the scores of improbable labels differ by more.
    """

    repeats: int = 5
    tolerance: float = 1e-3
    max_items: int = 500
    max_words: int = 3000
    delimiter_texts: tuple[str, ...] = texts.SPECIAL_TEXTS
    delimiter_token_id: int | None = None
    compare_tolerance: float = 0.05

    def __post_init__(self) -> None:
        if not 2 <= self.repeats <= MAX_REPEATS:
            raise ValueError(f"repeats must be in [2, {MAX_REPEATS}], got {self.repeats}")
        if not 0 < self.tolerance <= 1:
            raise ValueError(f"tolerance must be in (0, 1], got {self.tolerance}")
        if not 0 < self.compare_tolerance <= 10:
            raise ValueError(f"compare-tolerance must be in (0, 10], got {self.compare_tolerance}")
        if not 10 <= self.max_items <= MAX_ITEMS:
            raise ValueError(f"max-items must be in [10, {MAX_ITEMS}], got {self.max_items}")
        if not 0 <= self.max_words <= MAX_WORDS:
            raise ValueError(f"max-words must be in [0, {MAX_WORDS}], got {self.max_words}")
        if self.delimiter_token_id is not None and self.delimiter_token_id < 0:
            raise ValueError(
                f"delimiter-token-id must be at least 0, got {self.delimiter_token_id}"
            )
