"""How the items of a request are scored."""

import dataclasses
import math

from isoprefill.modes import Delimiter, Isolation, Tokenization, check_choice
from isoprefill.request.errors import RequestError, invalid_choice
from isoprefill.request.labels import LabelSets


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How the items of a request are scored; the same from the caller to the read-out.

    Attributes:
        labels: score log P(label | query, item); without, log P(item | query).
        apply_softmax: with labels, normalise over the item's labels instead of the whole vocabulary. Of a
            classification model: probabilities of its classes instead of logits.
        temperature: with apply_softmax, divides the log-probabilities first; None is 1, and 1 needs no apply_softmax.
        item_first: score item + query, each as a request of its own: labels then follow the query, and a
            likelihood is log P(query | item).
        isolation: "isolated", or "causal": items see the items before them.
        delimiter: whether a delimiter token stands between items; docs/design.md has the modes.
        delimiter_id: that token, unless `delimiter` is "none". It may be 0.
        tokenization: "separate" tokenises the query and each item on its own; "joint" tokenises query + item
            as one text, so that a word may cross the border (docs/scoring.md).
        untrusted_text: special tokens that query and items spell out are ordinary text.
        return_token_logprobs: also return the log-probability of every token of the items.
        return_largest: with it, also return the likeliest token in the place of every token of the items.
        extraction_token_id: read labels or classes not after an item but at every such token in it, each of which has
            seen the item up to itself: several candidates in one item are then compared by one prefill. None: after
            the item.
        return_pooled_hidden_states: also return the hidden states after the final norm at the rows where labels or
            classes are read.
    """

    labels: LabelSets | None = None
    apply_softmax: bool = False
    temperature: float | None = None
    item_first: bool = False
    isolation: Isolation = "isolated"
    delimiter: Delimiter = "none"
    delimiter_id: int | None = None
    tokenization: Tokenization = "separate"
    untrusted_text: bool = False
    return_token_logprobs: bool = False
    return_largest: bool = False
    extraction_token_id: int | None = None
    return_pooled_hidden_states: bool = False

    def __post_init__(self) -> None:
        for name, mode in (
            ("isolation", Isolation),
            ("delimiter", Delimiter),
            ("tokenization", Tokenization),
        ):
            check_choice(name, getattr(self, name), mode, invalid_choice)
        if self.item_first and self.isolation == "causal":
            raise RequestError("invalid_isolation.item_first", "isolation")
        if self.item_first and self.tokenization == "joint":
            raise RequestError("invalid_tokenization.item_first", "tokenization")
        if (self.delimiter == "none") != (self.delimiter_id is None):  # 0 is an id like any other
            raise RequestError(
                "invalid_delimiter.id",
                "delimiter_id",
                expected="None" if self.delimiter == "none" else "a token id",
                delimiter=repr(self.delimiter),
                got=self.delimiter_id,
            )
        if self.extraction_token_id is not None and self.item_first:
            raise RequestError("invalid_extraction_token.item_first", "extraction_token_id")
        if self.labels is not None and self.labels.needs_rows:
            if self.isolation == "causal":
                raise RequestError("invalid_isolation.labels", "isolation")
            if self.extraction_token_id is not None:
                raise RequestError("invalid_extraction_token.sequences", "extraction_token_id")
        if self.temperature is not None:
            self._check_temperature(self.temperature)

    def _check_temperature(self, temperature: float) -> None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise RequestError(
                "invalid_temperature.type", "temperature", got=type(temperature).__name__
            )
        if not (math.isfinite(temperature) and temperature > 0):
            raise RequestError("invalid_temperature", "temperature", value=temperature)
        if not self.apply_softmax and temperature != 1:
            raise RequestError("invalid_temperature.softmax", "temperature")
