"""Requests and responses of the HTTP API, as data. docs/api.md explains the fields."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from isoprefill.modes import Isolation, Tokenization
from isoprefill.request.errors import RequestError
from isoprefill.server.embed_overrides import FAIL_FAST, Vectors
from isoprefill.server.limits import Extent

_NOT_EMPTY: Any = Field(min_length=1, fail_fast=True)

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[TokenId], _NOT_EMPTY]
Text = Annotated[str, Field(min_length=1)]


def form(value: Any) -> str:
    """Which of its forms a value has, for a discriminator."""
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def _form_of_items(value: Any) -> str:
    nested = isinstance(value, list) and value and isinstance(value[0], list)
    return "lists" if nested else form(value)


def _form_of_labels(value: Any) -> str:
    lists = {isinstance(one, list) for one in value} if isinstance(value, list) else set()
    return "mixed" if len(lists) == 2 else "lists" if True in lists else form(value)


# The type alone decides which form a value has, so that an error is about the form that was meant.
Query = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TokenId], FAIL_FAST, Tag("list")],
    Discriminator(form),
]
Items = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], _NOT_EMPTY, Tag("list")]
    | Annotated[list[Tokens], _NOT_EMPTY, Tag("lists")],
    Discriminator(_form_of_items),
]
LabelIds = Annotated[
    Annotated[Tokens, Tag("list")] | Annotated[list[Tokens], _NOT_EMPTY, Tag("lists")],
    Discriminator(_form_of_labels),
]
_Texts = Annotated[list[Text], _NOT_EMPTY]
Labels = Annotated[
    Annotated[_Texts, Tag("list")] | Annotated[list[_Texts], _NOT_EMPTY, Tag("lists")],
    Discriminator(_form_of_labels),
]


# What requests of a pack have in common.
ModelName = Annotated[str | None, Field(description="The served model's name, or `default`.")]
IsolationChoice = Annotated[
    Isolation | None,
    Field(
        description="`causal` lets items see the items before them, which contaminates their scores."
    ),
]
TokenizationChoice = Annotated[
    Tokenization, Field(description="`joint` tokenises query + item as one text.")
]
UntrustedText = Annotated[
    bool | None,
    Field(
        description="Special tokens that texts spell out are ordinary text. Default: as the server is set."
    ),
]


class Request(BaseModel):
    """A body: strictly typed, and refused for a field that it does not know."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Lenient(Request):
    """A body whose unknown fields are ignored, because clients of several services send fields of their own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class PackRequest(Request):
    """A query and its items."""

    query: Query | None = Field(
        None,
        description="What every item is scored against: text or token ids. Empty, or left out: BOS alone.",
    )
    items: Items = Field(
        description="The items to score: text or token ids, whichever the query is."
    )

    @model_validator(mode="after")
    def _check_forms(self) -> "PackRequest":
        """The query and the items are both text, or both token ids."""
        if self.query and isinstance(self.query, str) != isinstance(self.item_list[0], str):
            raise RequestError("mixed_input_types", "items")
        return self

    @property
    def item_list(self) -> list[str] | list[list[int]]:
        return [self.items] if isinstance(self.items, str) else self.items

    def extent_of(
        self, tokenization: Tokenization, labels: Mapping[str, Sequence[Any]] | None = None
    ) -> Extent:
        """Returns how large the request is.

        Args:
            tokenization: what it asks for.
            labels: by field, for all items or a list for each item.
        """
        items, joint = self.item_list, tokenization == "joint"
        characters = len(self.query or ()) * len(items) + sum(map(len, items)) if joint else 0
        return Extent(len(items), characters, joint, labels or {})


class ScoreRequest(PackRequest):
    """Items to score against a query."""

    label_token_ids: LabelIds | None = Field(
        None,
        description="Score P(label | query, item) for these tokens: one list for all items, or one for each. "
        "Without labels the score is log P(item | query), or on a classification model the logits of its classes.",
    )
    apply_softmax: bool = Field(
        False,
        description="Normalise over the labels; on a classification model, probabilities of its classes.",
    )
    item_first: bool = Field(False, description="Score item + query instead of query + item.")
    model: ModelName = "default"
    labels: Labels | None = Field(
        None,
        description="Labels as text instead of `label_token_ids`, each of any number of tokens.",
    )
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="Divides the labels' log-probabilities before the softmax. Other than 1 needs it.",
    )
    isolation: IsolationChoice = None
    tokenization: TokenizationChoice = "separate"
    untrusted_text: UntrustedText = None
    return_logprob: bool = Field(
        False, description="Also return the natural logarithms over the full vocabulary."
    )
    return_token_logprobs: bool = Field(
        False,
        description="Also return `token_logprobs`: of each item's labels, over the full vocabulary.",
    )
    return_item_logprobs: bool = Field(
        False, description="Also return the log-probability of every token of the items."
    )
    embed_override_token_id: TokenId | None = Field(
        None, description="The token whose places in query and items vectors take, in order."
    )
    query_embed_overrides: Vectors | None = Field(
        None, description="Vectors for that token in the query: lists of numbers, or base64."
    )
    item_embed_overrides: Annotated[list[Vectors | None], FAIL_FAST] | None = Field(
        None, description="The same for each item; null: there it is an ordinary token."
    )
    score_extraction_token: str | None = Field(
        None,
        description="Read labels or classes at every such token in an item instead of after the item: "
        "`scores` then has a row for each.",
    )
    return_pooled_hidden_states: bool = Field(
        False,
        description="Also return what the head reads of each item: its last hidden state, after the final norm.",
    )
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Return only this many items, best first, and their `indices`."
    )
    user: str | None = Field(
        None, description="Accepted and ignored, because OpenAI clients send it."
    )

    @model_validator(mode="after")
    def _check_labels(self) -> "ScoreRequest":
        """Labels are ids or text."""
        if self.labels is not None and self.label_token_ids is not None:
            raise RequestError("conflicting_labels", "labels")
        return self

    @property
    def extent(self) -> Extent:
        labels = {"labels": self.labels or (), "label_token_ids": self.label_token_ids or ()}
        return self.extent_of(self.tokenization, labels)


class Usage(BaseModel):
    """Token counts: the query once and every item. Nothing is ever decoded."""

    prompt_tokens: int
    completion_tokens: Literal[0]
    total_tokens: int
    prompt_tokens_details: dict[Literal["cached_tokens"], int]


class ItemScore(BaseModel):
    """The log-likelihood of an item."""

    index: int
    score: float | None = Field(description="log P(item | query), natural logarithm.")
    num_tokens: int = Field(description="Tokens whose log-probabilities the score sums.")


class ScoreResponse(BaseModel):
    """Scores in the order of the items, or best first with `top_n`."""

    id: str
    object: Literal["scoring"]
    created: int
    model: str
    scores: list[list[float]] | list[list[list[float]]] | list[ItemScore]
    indices: list[int] | None = None
    logprobs: (
        list[list[float | None]] | list[list[list[float | None]]] | list[float | None] | None
    ) = None
    token_logprobs: list[list[float | None]] | None = None
    item_logprobs: list[list[float | None]] | None = None
    num_label_tokens: list[list[int]] | None = Field(
        None, description="With `labels` of several tokens, how many tokens each has."
    )
    classes: list[str] | None = Field(
        None, description="Of a classification model, in the order of the numbers in `scores`."
    )
    pooled_hidden_states: list[list[float]] | list[list[list[float]]] | None = None
    algorithm: str
    isolation: Isolation
    usage: Usage


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"]
    data: list[Model]


class Status(BaseModel):
    """Whether the server is up and ready."""

    status: Literal["ok", "ready", "not_ready"]


class ErrorObject(BaseModel):
    """What is wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """The body of every answer whose status is not 200."""

    error: ErrorObject
    message: str | None = Field(None, description="The same message, where clients of rerank look.")
    detail: str | None = Field(None, description="The same message, where clients of rerank look.")
