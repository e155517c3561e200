"""POST /v1/completions for those who read log-probabilities of prompts, such as lm-evaluation-harness.

Nothing is generated but the one likeliest token that `max_tokens` 1 asks for. Prompts that begin alike share a scoring
request: their common beginning is its query. As a query's own tokens are not scored, that beginning is scored once more
as an item.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from isoprefill.integers import common_prefix
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import ScoreResult
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.api_models import Lenient, TokenId
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.scoring import Prepared, ScoringRoute
from isoprefill.server.service import Service

SHARED_TOKENS = 16  # a common beginning that is worth a scoring request of its own
_DUMMY = 0  # stands after a prompt whose next token is asked for; no row that is read sees it


def _form_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    kinds = {type(one) for one in value}
    return "texts" if kinds == {str} else "lists" if kinds == {list} else "tokens"


_Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
_Many = Field(min_length=1, fail_fast=True)
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], _Many, Tag("texts")]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[list[_Tokens], _Many, Tag("lists")],
    Discriminator(_form_of_prompt),
]


class CompletionRequest(Lenient):
    """Prompts whose log-probabilities are read. Fields that are not listed are ignored."""

    prompt: Prompt = Field(description="A text or token ids, or a list of either.")
    max_tokens: int | None = Field(
        16, description="0, or 1 for the likeliest next token; anything else would be generation."
    )
    echo: bool | None = Field(False, description="Return the prompt with its log-probabilities.")
    logprobs: int | None = Field(
        None, description="0: of the prompt's tokens; 1: also of the likeliest token in each place."
    )
    temperature: float | None = Field(None, description="With `max_tokens` 1: 0.")
    n: int | None = Field(1, description="1.")
    stream: bool | None = Field(False, description="false.")
    model: str | None = Field("default", description="The served model's name, or `default`.")

    @model_validator(mode="after")
    def _check_together(self) -> "CompletionRequest":
        """Refuses what would be generation."""
        allowed = [
            ("max_tokens", self.max_tokens in (0, 1), "0 or 1: this server does not generate text"),
            (
                "temperature",
                self.max_tokens == 0 or self.temperature in (None, 0),
                "0: the next token is the likeliest, none is sampled",
            ),
            ("n", self.n in (None, 1), "1"),
            ("stream", not self.stream, "false"),
            ("logprobs", self.logprobs in (None, 0, 1), "0 or 1"),
        ]
        for field, fits, what in allowed:
            if not fits:
                raise RequestError("invalid_parameter_type", field, why=f"must be {what}")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        prompt: Any = self.prompt
        return prompt if _form_of_prompt(prompt) in ("texts", "lists") else [prompt]


class CompletionLogprobs(BaseModel):
    """Log-probabilities, as lists over the tokens; the first of a prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[int]


class Completion(BaseModel):
    """One prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["length"]


class CompletionUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(BaseModel):
    """The prompts, in their order."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Completion]
    usage: CompletionUsage


@dataclasses.dataclass(slots=True, eq=False)
class _Read:
    """What is known of a prompt, over its tokens and, with `max_tokens` 1, the place after them."""

    logprobs: np.ndarray  # [tokens]
    largest: np.ndarray  # [tokens, 2]


class Completions:
    """A `scoring.Exchange`."""

    body = CompletionRequest
    items = "prompt"

    def extent(self, body: CompletionRequest, service: Service) -> Extent:
        return Extent(len(body.prompts), 0)

    def prepare(self, body: CompletionRequest, service: Service, request_id: str) -> Prepared:
        preparer = service.preparer
        assert preparer is not None
        prompts = [
            preparer.text_tokens(one) if isinstance(one, str) else one for one in body.prompts
        ]
        for index, tokens in enumerate(prompts):
            if not tokens:
                raise RequestError("empty_item", "items", index)
            for place, token in enumerate(tokens):
                if token >= preparer.limits.vocab_size:
                    limit = preparer.limits.vocab_size
                    raise RequestError(
                        "token_id_exceeds_vocab", "items", index, place, limit=limit, value=token
                    )
        next_tokens = body.max_tokens or 0
        options = ScoreOptions(return_token_logprobs=True, return_largest=True)
        groups = list(_groups(prompts))
        requests: list[TokenRequest] = []
        for indices, shared in groups:
            items = [prompts[index][shared:] + [_DUMMY] * next_tokens for index in indices]
            for query, scored in (
                (prompts[indices[0]][:shared], items),
                (prompts[indices[0]][:1], [prompts[indices[0]][1:shared]]),
            ):
                if all(scored):
                    arrays = tuple(np.asarray(item, np.int64) for item in scored)
                    requests.append(_checked(service, query, arrays, options, request_id, indices))

        def respond(results: Sequence[ScoreResult], common: dict[str, Any]) -> Any:
            reads = _collect(prompts, groups, next_tokens, results)
            choices = [
                _choice(body, service.tokenizer, index, tokens, read)
                for index, (tokens, read) in enumerate(zip(prompts, reads, strict=True))
            ]
            prompt_tokens, completion_tokens = sum(map(len, prompts)), next_tokens * len(prompts)
            usage = {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            }
            return common | {"object": "text_completion", "choices": choices, "usage": usage}

        return Prepared(requests, respond)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


def _groups(prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], int]]:
    """Yields indices of prompts that share a beginning, and its length: at least 1, and less than all of a prompt.

    A prompt of one token is a group by itself.
    """
    group: list[int] = []
    shared = 0
    for index in sorted(range(len(prompts)), key=lambda index: prompts[index]):
        tokens = prompts[index]
        if group:
            both = min(common_prefix(prompts[group[0]], tokens), shared, len(tokens) - 1)
            if both >= SHARED_TOKENS and 2 * both >= len(tokens):
                group.append(index)
                shared = both
                continue
            yield group, _alone(prompts, group, shared)
        group, shared = [index], len(tokens) - 1
    if group:
        yield group, _alone(prompts, group, shared)


def _alone(prompts: Sequence[list[int]], group: list[int], shared: int) -> int:
    """One prompt needs no common beginning: its first token is the query."""
    return 1 if len(group) == 1 else shared


def _collect(
    prompts: Sequence[list[int]],
    groups: Sequence[tuple[list[int], int]],
    next_tokens: int,
    results: Sequence[ScoreResult],
) -> list[_Read]:
    """Puts the scores of all requests in the places of the prompts' tokens."""
    reads = [
        _Read(
            np.full(len(tokens) + next_tokens, np.nan),
            np.full((len(tokens) + next_tokens, 2), np.nan),
        )
        for tokens in prompts
    ]
    left = iter(results)
    for indices, shared in groups:
        if len(prompts[indices[0]]) + next_tokens > shared:
            result = next(left)
            for place, index in enumerate(indices):
                _put(reads[index], shared, result, place)
        if shared > 1:
            result = next(left)
            for index in indices:
                _put(reads[index], 1, result, 0)
    return reads


def _put(read: _Read, begin: int, result: ScoreResult, item: int) -> None:
    assert result.token_logprobs is not None
    assert result.largest is not None
    end = begin + result.token_logprobs[item].size
    read.logprobs[begin:end] = result.token_logprobs[item]
    read.largest[begin:end] = result.largest[item]


def _choice(
    body: CompletionRequest, tokenizer: Tokenizer, index: int, prompt: list[int], read: _Read
) -> dict[str, Any]:
    tokens, logprobs = list(prompt), read.logprobs.copy()
    if body.max_tokens:  # the likeliest token takes the place after the prompt
        tokens.append(int(read.largest[-1, 1]))
        logprobs[-1] = read.largest[-1, 0]
    begin = 0 if body.echo else len(prompt)
    spelt = tokenizer.spellings(tokens[begin:])
    choice: dict[str, Any] = {
        "index": index,
        "text": tokenizer.decode(tokens[begin:]),
        "logprobs": None,
        "finish_reason": "length",
    }
    if body.logprobs is not None:
        ends = np.cumsum([len(text) for text in spelt]).tolist()
        top: list[dict[str, float] | None] | None = None
        if body.logprobs:
            likeliest = tokenizer.spellings(
                [int(one) for one in np.nan_to_num(read.largest[begin:, 1])]
            )
            top = [
                None if np.isnan(own) else {text: float(own), best: float(most)}
                for text, own, best, most in zip(
                    spelt, logprobs[begin:], likeliest, read.largest[begin:, 0], strict=True
                )
            ]
        choice["logprobs"] = {
            "tokens": spelt,
            "token_logprobs": [None if np.isnan(one) else float(one) for one in logprobs[begin:]],
            "top_logprobs": top,
            "text_offset": [0, *ends[:-1]] if ends else [],
        }
    return choice


def _checked(
    service: Service,
    query: list[int],
    items: tuple[np.ndarray, ...],
    options: ScoreOptions,
    request_id: str,
    indices: list[int],
) -> TokenRequest:
    """A request whose errors name the prompts by their places in the body."""
    assert service.preparer is not None
    try:
        request = TokenRequest(
            np.asarray(query, np.int32),
            tuple(item.astype(np.int32) for item in items),
            options,
            request_id=request_id,
        )
        service.preparer.limits.check(request)
        service.settings.limits.tokens.check(request)
    except RequestError as error:
        place = indices[error.index[0]] if error.field == "items" and error.index else indices[0]
        raise RequestError(error.rule, "items", place, **error.data) from None
    return request


EXCHANGE = Completions()
ROUTE: ScoringRoute[Any] = ScoringRoute(
    name="completions",
    tag="scoring",
    summary="Log-probabilities of prompts",
    path="/v1/completions",
    bodies=(CompletionRequest,),
    response=CompletionResponse,
    choose=lambda raw: EXCHANGE,
)
