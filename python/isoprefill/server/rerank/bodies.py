"""Bodies and answers of rerank requests, as the clients of several services send and read them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from isoprefill.request.errors import RequestError
from isoprefill.rerank.job import RerankJob, Truncation
from isoprefill.server.api_models import Lenient, Text, Usage, form

Most = Annotated[int, Field(ge=0)]
Model = Annotated[str | None, Field(description="The served model's name, or `default`.")]
Untrusted = Annotated[
    bool | None,
    Field(
        description="Special tokens in the texts are ordinary text. Default: as the server is set."
    ),
]
PromptTokens = Annotated[
    int | None,
    Field(
        ge=-1,
        description="Cut documents so that a prompt has at most this many tokens; -1: as many as the model takes.",
    ),
]


class DocumentObject(Lenient):
    """A document as an object; other fields are ignored."""

    text: str


class RerankRequest(Lenient):
    """Documents to order by their relevance to a query. Fields that are not listed are ignored."""

    query: Text
    documents: Annotated[
        list[
            Annotated[
                Annotated[str, Tag("text")] | Annotated[DocumentObject, Tag("object")],
                Discriminator(form),
            ]
        ],
        Field(min_length=1, fail_fast=True),
    ]
    model: Model = "default"
    top_n: Most | None = Field(None, description="Return only this many documents; 0: all.")
    top_k: Most | None = Field(
        None, description="Voyage's name of `top_n`; the answer is Voyage's."
    )
    return_documents: bool | None = Field(None, description="Return each document's text.")
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Cut longer documents to this many tokens."
    )
    truncation: bool | None = Field(
        None, description="Cut documents that are too long for the model or the server."
    )
    truncate_prompt_tokens: PromptTokens = None
    raw_scores: bool | None = Field(None, description="Answer logarithms instead of probabilities.")
    instruction: str | None = Field(None, description="What to look for, in words.")
    instruct: str | None = Field(None, description="SGLang's name of `instruction`.")
    untrusted_text: Untrusted = None

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def job(self, truncates: bool) -> RerankJob:
        """The job; `truncates`: whether what is too long is cut if the body does not say."""
        return RerankJob(
            query=self.query,
            documents=tuple(self.texts),
            instruction=self.instruct if self.instruction is None else self.instruction,
            truncation=truncation(
                self.truncate_prompt_tokens,
                to_fit=truncates if self.truncation is None else self.truncation,
                document_tokens=self.max_tokens_per_doc,
            ),
            untrusted_text=self.untrusted_text,
        )


class TeiRequest(Lenient):
    """Texts to order by their relevance to a query, as Text Embeddings Inference has it."""

    query: Text
    texts: Annotated[list[str], Field(min_length=1, fail_fast=True)]
    model: Model = "default"
    raw_scores: bool | None = Field(
        False, description="Answer logarithms instead of probabilities."
    )
    return_text: bool | None = Field(False, description="Return each text.")
    truncate: bool | None = Field(False, description="Cut texts that are too long.")
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = Field(
        "Right", description="The end at which texts are cut."
    )
    untrusted_text: Untrusted = None

    @property
    def job(self) -> RerankJob:
        keep: Any = "end" if (self.truncation_direction or "").lower() == "left" else "beginning"
        return RerankJob(
            query=self.query,
            documents=tuple(self.texts),
            truncation=Truncation(to_fit=bool(self.truncate), keep=keep),
            untrusted_text=self.untrusted_text,
        )


TextOrTexts = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(form),
]
TextsToCompare = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, fail_fast=True), Tag("list")],
    Discriminator(form),
]
FIRST, SECOND = ("queries", "text_1", "data_1"), ("documents", "text_2", "data_2")


class PairScoreRequest(Lenient):
    """Pairs of a query and a document, as vLLM has them: one query for all documents, or one for each."""

    queries: TextOrTexts | None = Field(None, description="Queries: one, or one for each document.")
    documents: TextsToCompare | None = Field(None, description="Documents.")
    text_1: TextOrTexts | None = Field(None, description="Another name of `queries`.")
    text_2: TextsToCompare | None = Field(None, description="Another name of `documents`.")
    data_1: TextOrTexts | None = Field(None, description="Another name of `queries`.")
    data_2: TextsToCompare | None = Field(None, description="Another name of `documents`.")
    model: Model = "default"
    truncate_prompt_tokens: PromptTokens = None
    instruction: str | None = Field(None, description="What to look for, in words.")
    untrusted_text: Untrusted = None

    @model_validator(mode="after")
    def _check_together(self) -> "PairScoreRequest":
        """One name of each side is there, and their numbers go together."""
        for names, rule in ((FIRST, "missing_query"), (SECOND, "missing_items")):
            if all(getattr(self, name) is None for name in names):
                raise RequestError(rule, self.name_of(names))
        if len(self.first) not in (1, len(self.second)):
            raise RequestError(
                "invalid_parameter_type.pairs",
                self.name_of(FIRST),
                limit=len(self.second),
                value=len(self.first),
            )
        return self

    def name_of(self, names: tuple[str, ...]) -> str:
        """The name that was used for a side; where none was, the one that goes with the other side's."""
        for position, name in enumerate(names):
            if getattr(self, name) is not None:
                return name
            if getattr(self, (FIRST if names is SECOND else SECOND)[position]) is not None:
                return name
        return names[0]

    @property
    def first(self) -> list[str]:
        return self._texts(FIRST)

    @property
    def second(self) -> list[str]:
        return self._texts(SECOND)

    def _texts(self, names: tuple[str, ...]) -> list[str]:
        value = next(getattr(self, name) for name in names if getattr(self, name) is not None)
        return [value] if isinstance(value, str) else value


def truncation(
    prompt_tokens: int | None, *, to_fit: bool = False, document_tokens: int | None = None
) -> Truncation:
    """Returns how documents are cut; `prompt_tokens` of -1 and 0 stand for as many as the model takes."""
    return Truncation(
        document_tokens=document_tokens,
        prompt_tokens=prompt_tokens if prompt_tokens and prompt_tokens > 0 else None,
        to_fit=to_fit or (prompt_tokens is not None and prompt_tokens < 1),
    )


class RerankResult(BaseModel):
    """One document. Infinity's clients get its text bare, all others in an object."""

    index: int
    relevance_score: float
    document: dict[Literal["text"], str] | str | None = None


class RerankResponse(BaseModel):
    """Documents, most relevant first: what Cohere's, Jina's, Infinity's and llama.cpp's clients read."""

    id: str
    object: Literal["rerank"]
    created: int
    model: str
    results: list[RerankResult]
    meta: dict[str, Any] = Field(description="What Cohere's clients read of the answer.")
    usage: Usage


class VoyageResponse(BaseModel):
    """Documents, most relevant first, as Voyage answers."""

    object: Literal["list"]
    data: list[RerankResult]
    model: str
    usage: Usage


class SglangResult(BaseModel):
    """One document of a bare list, as SGLang answers."""

    score: float
    document: str | None = None
    index: int
    meta_info: dict[str, Any]


class TeiResult(BaseModel):
    """One text of a bare list, as Text Embeddings Inference answers."""

    index: int
    score: float
    text: str | None = None


class TeiError(BaseModel):
    """An error, as Text Embeddings Inference words it."""

    error: str
    error_type: Literal["Validation", "Overloaded", "Backend", "Unhealthy"]


class PairScore(BaseModel):
    """One pair."""

    index: int
    object: Literal["score"]
    score: float


class PairScoreResponse(BaseModel):
    """Scores in the order of the pairs, or of the items."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: Usage
