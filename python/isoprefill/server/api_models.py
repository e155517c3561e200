"""Requests and responses of the HTTP API, as data. docs/api.md explains the fields."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from isoprefill.modes import Isolation, Tokenization
from isoprefill.request.errors import RequestError
from isoprefill.server.limits import Extent

_NOT_EMPTY: Any = Field(min_length=1, fail_fast=True)  # the first error is enough to refuse

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[TokenId], _NOT_EMPTY]
Text = Annotated[str, Field(min_length=1)]


def _form(value: Any) -> str:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def _form_of_items(value: Any) -> str:
    nested = isinstance(value, list) and value and isinstance(value[0], list)
    return "lists" if nested else _form(value)


def _form_of_labels(value: Any) -> str:
    lists = {isinstance(one, list) for one in value} if isinstance(value, list) else set()
    return "mixed" if len(lists) == 2 else "lists" if True in lists else _form(value)


# The type alone decides which form a value has, so that an error is about the form that was meant.
Query = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Tokens, Tag("list")], Discriminator(_form)
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


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ScoreRequest(_Request):
    """Items to score against a query."""

    query: Query = Field(description="What every item is scored against: text or token ids.")
    items: Items = Field(
        description="The items to score: text or token ids, whichever the query is."
    )
    label_token_ids: LabelIds | None = Field(
        None,
        description="Score P(label | query, item) for these tokens: one list for all items, or one for each. "
        "Without labels the score is log P(item | query).",
    )
    apply_softmax: bool = Field(False, description="Normalise over the labels.")
    item_first: bool = Field(False, description="Score item + query instead of query + item.")
    model: str | None = Field("default", description="The served model's name, or `default`.")
    labels: Labels | None = Field(
        None, description="Labels as text instead of `label_token_ids`; one token each."
    )
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Divides the labels' log-probabilities before the softmax."
    )
    isolation: Isolation | None = Field(
        None,
        description="`causal` lets items see the items before them, which contaminates their scores.",
    )
    tokenization: Tokenization = Field(
        "separate", description="`joint` tokenises query + item as one text."
    )
    return_logprob: bool = Field(
        False, description="Also return the natural logarithms over the full vocabulary."
    )
    return_token_logprobs: bool = Field(
        False, description="Also return the log-probability of every token of the items."
    )
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Return only this many items, best first, and their `indices`."
    )
    user: str | None = Field(
        None, description="Accepted and ignored, because OpenAI clients send it."
    )

    @model_validator(mode="after")
    def _check_together(self) -> "ScoreRequest":
        """What the fields' types do not say."""
        if isinstance(self.query, str) != isinstance(self.item_list[0], str):
            raise RequestError("mixed_input_types", "items")
        if self.labels is not None and self.label_token_ids is not None:
            raise RequestError("conflicting_labels", "labels")
        return self

    @property
    def item_list(self) -> list[str] | list[list[int]]:
        return [self.items] if isinstance(self.items, str) else self.items

    @property
    def extent(self) -> Extent:
        items, joint = self.item_list, self.tokenization == "joint"
        return Extent(
            num_items=len(items),
            num_characters=len(self.query) * len(items) + sum(map(len, items)) if joint else 0,
            joint=joint,
            labels={"labels": self.labels or (), "label_token_ids": self.label_token_ids or ()},
        )


class DocumentObject(BaseModel):
    """A document as an object; other fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    text: Text


class RerankRequest(_Request):
    """Documents to order by their relevance to a query. Fields that are not listed are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    query: Text
    documents: Annotated[
        list[
            Annotated[
                Annotated[Text, Tag("text")] | Annotated[DocumentObject, Tag("object")],
                Discriminator(_form),
            ]
        ],
        _NOT_EMPTY,
    ]
    model: str | None = Field("default", description="The served model's name, or `default`.")
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Return only this many documents."
    )
    return_documents: bool | None = Field(True, description="Return each document's text.")
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Truncate longer documents to this many tokens."
    )

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


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
    scores: list[list[float]] | list[ItemScore]
    indices: list[int] | None = None
    logprobs: list[list[float | None]] | list[float | None] | None = None
    token_logprobs: list[list[float | None]] | None = None
    algorithm: str
    isolation: Isolation
    usage: Usage


class RerankResult(BaseModel):
    """One document."""

    index: int
    relevance_score: float
    document: dict[Literal["text"], str] | None = None


class RerankResponse(BaseModel):
    """Documents, most relevant first."""

    id: str
    object: Literal["rerank"]
    created: int
    model: str
    results: list[RerankResult]
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


REQUESTS: tuple[type[BaseModel], ...] = (ScoreRequest, RerankRequest)
