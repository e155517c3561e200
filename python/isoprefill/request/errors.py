"""The errors of a request: the rules, and the message of each."""

from typing import Any

_CHOICE = "{at} must be one of {choices}, got {got}"
_TYPE = "{at} must be {expected}, got {got}"
_UNICODE = "{at}: {why}"
_BOOLEAN = "{at} must be true or false, got {got}"
_TOKEN_RANGE = "{at} must be in [0, {limit}), got {value}"

# Every rule begins with the code that a program reads. {at} is the field with its place, such as items[3]; {items} and
# {item} are what the caller calls the items; everything else is data of the error.
MESSAGES = {
    "missing_query": "{at} is missing",
    "missing_items": "{at} is missing",
    "missing_label_token_ids": "apply_softmax needs labels or label_token_ids",
    "missing_label_token_ids.logprobs": "return_token_logprobs needs labels or label_token_ids: token_logprobs are "
    "those of the labels, as in SGLang; those of an item's own tokens are return_item_logprobs",
    "missing_label_token_ids.pooled": "{at} needs labels, label_token_ids, or a classification model",
    "missing_label_token_ids.required": "This server scores labels only: give labels or label_token_ids",
    "empty_query": "{at} must hold at least 1 token, got 0, and no BOS token can take its place",
    "empty_query.joint": "with tokenization 'joint' the query must keep at least 1 token of its own, but the first "
    "token of query + {items}[{number}] spans both",
    "empty_items": "{at} must hold at least 1 {item}, got 0",
    "empty_item": "{at} must hold at least 1 token, got 0",
    "empty_item.joint": "{at} must add at least 1 token to the query, got 0",
    "empty_label_token_ids": "{at} must be a flat list of at least 1 token id, got []",
    "empty_label_token_ids.text": "{at} must hold at least 1 label in each list, got an empty list",
    "label_count_mismatch": "{at} must be one list for all {items} or one for each of the {limit}, got {value} lists",
    "negative_token_id": "{at} must be at least 0, got {value}",
    "negative_token_id.vocabulary": _TOKEN_RANGE,
    "token_id_exceeds_vocab": _TOKEN_RANGE,
    "token_id_exceeds_vocab.int32": "{at} must fit in int32, got {value}",
    "invalid_temperature": "{at} must be finite and above 0, got {value}",
    "invalid_temperature.type": "{at} must be a number, got {got}",
    "invalid_temperature.json": "{at} must be a finite number above 0",
    "invalid_temperature.softmax": "{at} other than 1 needs apply_softmax",
    "invalid_isolation": _CHOICE,
    "invalid_isolation.item_first": "isolation 'causal' has no meaning with item_first: each {item} is scored alone",
    "invalid_isolation.labels": "isolation 'causal' takes labels of one token only: those of several would be seen by "
    "the {items} after them",
    "invalid_isolation.algorithm": "isolation 'causal' has no meaning with algorithm {got}: {items} are not all in one "
    "prefill",
    "invalid_isolation.server": "isolation 'causal' has no meaning on this server: it does not score all {items} in "
    "one prefill without delimiters",
    "invalid_tokenization": _CHOICE,
    "invalid_tokenization.item_first": "tokenization 'joint' is for query + item: it has no meaning with item_first",
    "invalid_delimiter": _CHOICE,
    "invalid_delimiter.id": "{at} must be {expected} with delimiter {delimiter}, got {got}",
    "invalid_algorithm": _CHOICE,
    "invalid_label": "{at} must be a single token, got {value}",
    "invalid_label.empty": "{at} must have at least 1 token, got 0",
    "invalid_top_n": "{at} must be an integer of at least 1",
    "invalid_top_n.all": "{at} must be an integer of at least 0 (0: all)",
    "invalid_extraction_token.item_first": "{at} is for tokens of {items}: it has no meaning with item_first, which "
    "reads after the query",
    "invalid_extraction_token.labels": "{at} needs labels, label_token_ids, or a classification model",
    "invalid_extraction_token.sequences": "{at} takes labels of one token only",
    "invalid_extraction_token.top_n": "{at} has no meaning with several numbers of each {item}: leave it out with an "
    "extraction token",
    "invalid_extraction_token.query": "{at} must not hold the extraction token (id {value}), which is read in "
    "{items} only",
    "invalid_extraction_token.item": "{at} must hold the extraction token (id {value}) at least once, got 0",
    "invalid_embed_overrides.token": "{at} is needed with embedding overrides, and has no meaning without",
    "invalid_embed_overrides.joint": "{at} has no meaning with tokenization 'joint'",
    "invalid_embed_overrides.items": "{at} must hold a list of vectors or null for each of the {limit} {items}, got "
    "{value}",
    "invalid_embed_overrides.count": "{at} must hold a vector for each of the {limit} override tokens of its text, got "
    "{value}",
    "invalid_embed_overrides.width": "{at} must be a vector of {limit} numbers, the width of the model's embeddings, "
    "got {value}",
    "invalid_embed_overrides.finite": "{at} must hold finite numbers of float32, got one that is not",
    "invalid_embed_overrides.bytes": "{at} must be base64 of whole vectors of {limit} numbers of {dtype}",
    "invalid_embed_overrides.likelihood": "{at} holds vectors, of which there is no likelihood: give labels "
    "or label_token_ids",
    "delimiter_in_text": "{at} is the delimiter token {value}, which may occur only between {items}",
    "context_length_exceeded": "query and {at} must have at most {limit} tokens together (the model's context "
    "length), got {value}",
    "context_length_exceeded.label": "query, {at} and all but the last token of its longest label must have at most "
    "{limit} tokens together (the model's context length), got {value}",
    "context_length_exceeded.query": "{at} must have at most {limit} tokens (the model's context length), got {value}",
    "context_length_exceeded.no_room": "{at} must have at most {limit} tokens, so that there is room for an {item} "
    "(the model's context length), got {value}: shorten it",
    "context_length_exceeded.around": "{at} would be cut to nothing: its prompt must have at most {limit} tokens, "
    "and has {value} without it",
    "context_length_exceeded.causal": "with isolation 'causal' the query and all {items} must have at most {limit} "
    "tokens together ({bound}), delimiters included, got {value}",
    "too_many_items": "{at} must hold at most {limit}, got {value}",
    "too_many_items.answer": "{at} must hold at most {limit} where each has {width} numbers in the answer, got {value}",
    "too_many_tokens": "{at} must have at most {limit} tokens, got {value}",
    "too_many_tokens.request": "query and {at} must have at most {limit} tokens together, got {value}",
    "too_many_tokens.item_first": "with item_first, query and {at} must have at most {limit} tokens together, "
    "counting the query once for every {item}, got {value}",
    "too_many_tokens.joint": "with tokenization 'joint' all texts query + {item} must have at most {limit} characters "
    "together, got {value}",
    "too_many_tokens.repeated_query": "the query, which follows every {item}, must have at most {limit} tokens in all "
    "{items} together, got {value}",
    "too_many_tokens.prompts": "the prompts of all {items} must have at most {limit} characters together, got {value}",
    "too_many_labels": "{at} must have at most {limit} labels, got {value}",
    "too_many_labels.padded": "{at} must have at most {limit} labels for all {items} together, with every list "
    "padded to the longest, got {value} x {longest}",
    "too_many_labels.tokens": "{at} must have at most {limit} tokens in all, with every list and every label padded to "
    "the longest, got {value} labels of up to {longest}",
    "invalid_json": "The body is not valid JSON: {why}",
    "invalid_json.duplicate": "The body is not usable JSON: an object has the key {name} twice",
    "invalid_body_type": "The body must be a JSON object, got {got}",
    "invalid_query_type": _TYPE,
    "invalid_query_type.unicode": _UNICODE,
    "invalid_items_type": _TYPE,
    "invalid_items_type.unicode": _UNICODE,
    "mixed_input_types": "query and {items} must both be text, or both token ids",
    "mixed_input_types.items": "{items} must all be text, or all token ids; {at} is not of the same kind as {items}[0]",
    "mixed_input_types.joint": "tokenization 'joint' needs the query and all {items} as text",
    "invalid_label_token_ids_type": _TYPE,
    "invalid_labels_type": "{at} must be a list of texts, or one such list for each {item}, none of them empty",
    "invalid_labels_type.unicode": _UNICODE,
    "conflicting_labels": "Give either labels or label_token_ids, not both",
    "invalid_token_id_type": "{at} must be an integer, got {got}",
    "invalid_apply_softmax_type": _BOOLEAN,
    "invalid_item_first_type": _BOOLEAN,
    "invalid_parameter_type": "{at}: {why}",
    "invalid_parameter_type.pairs": "{at} must be one text, or one for each of the {limit} texts to compare with, "
    "got {value}",
    "unknown_parameter": "The body has a field that this route does not accept: {name}. It accepts {known}",
    "unknown_parameter.near": "The body has a field that this route does not accept: {name}. Did you mean {at}?",
    "unknown_parameter.instruction": "{at} has no place in this server's rerank prompt: it is not accepted",
    "classification_model": "{at} needs a language-model head, which this classification model has not: leave it out, "
    "and the scores are the logits of the model's classes",
    "rerank_unavailable.classes": "The model has {value} classes: which of them makes a {item} relevant is not known, "
    "so score with /v1/score",
    "rerank_unavailable": "This server does not rerank: it was started with --rerank-preset none",
}


class RequestError(ValueError):
    """A request that cannot be scored.

    Attributes:
        rule: what is wrong, a key of `MESSAGES`.
        field: the field that is wrong; None if it is none in particular.
        index: its place in the field: of an item, of a token in it.
        data: values and limits for the message.
    """

    def __init__(self, rule: str, field: str | None = None, *index: int, **data: Any) -> None:
        """Takes what is wrong, and where."""
        self.rule, self.field, self.index, self.data = rule, field, index, data
        super().__init__(self.message())

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are otherwise rebuilt from the message alone, in another process or a copy.
        return _request_error, (self.rule, self.field, self.index, self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestError) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.rule, self.field, self.index))

    @property
    def code(self) -> str:
        """What is wrong, from the error table of the `/v1/score` API, such as "empty_item"."""
        return self.rule.partition(".")[0]

    @property
    def param(self) -> str | None:
        """The field that is wrong, with its place, such as "items[3]"."""
        return self.place()

    def place(self, items: str = "items") -> str | None:
        """Returns `param` for a caller who calls the items something else."""
        if self.field is None:
            return None
        field = items if self.field == "items" else self.field
        return field + "".join(f"[{one}]" for one in self.index)

    def message(self, items: str = "items") -> str:
        """Words the error for a caller who calls the items `items`, such as "documents"."""
        names = {"at": self.place(items), "items": items, "item": items.removesuffix("s")}
        return MESSAGES[self.rule].format(**names, **self.data)


def _request_error(
    rule: str, field: str | None, index: tuple[int, ...], data: dict[str, Any]
) -> RequestError:
    return RequestError(rule, field, *index, **data)


def invalid_choice(name: str, value: object, choices: tuple[str, ...]) -> RequestError:
    """Returns the error of `isoprefill.modes.check_choice` for an option of a request."""
    return RequestError(f"invalid_{name}", name, choices=choices, got=repr(value))


class MissingLogprobError(RuntimeError):
    """The model gave no log-probability where one was needed; names the request and the item."""
