"""The settings of an audit."""

import dataclasses

from isoprefill.audit import texts
from isoprefill.settings import check_bounds, setting


@dataclasses.dataclass(frozen=True, slots=True)
class AuditSettings:
    """The settings of an audit.

    The default of `compare_tolerance` is what SGLang's own tests allow; with bfloat16 the scores of improbable labels
    differ by more.
    """

    repeats: int = setting(
        5,
        "How many times to measure the noise, and everything else if there is noise.",
        ge=2,
        le=100,
    )
    tolerance: float = setting(
        1e-3, "Differences of log scores up to this are ignored.", gt=0, le=1
    )
    max_items: int = setting(500, "Items of the longest list.", ge=10, le=10_000)
    max_words: int = setting(
        3000, "Words of the longest query; halved until the server accepts it.", ge=0, le=100_000
    )
    delimiter_texts: tuple[str, ...] = setting(
        texts.SPECIAL_TEXTS,
        "A text that may be the server's delimiter, to put into an item; repeat for more.",
        flag="delimiter-text",
    )
    delimiter_token_id: int | None = setting(
        None, "The server's delimiter, to put into an item of token ids.", ge=0
    )
    compare_tolerance: float = setting(
        0.05, "Two servers agree if their log scores differ by at most this much.", gt=0, le=10
    )

    def __post_init__(self) -> None:
        check_bounds(self)
