"""POST /tokenize and /detokenize, in vLLM's shape: how people find the ids of labels.

/tokenize also answers Text Embeddings Inference's clients, whose text is `inputs` instead of `prompt`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from isoprefill.request.errors import RequestError
from isoprefill.server import limits
from isoprefill.server.api_models import ErrorResponse, Lenient, TokenId
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.rerank.bodies import TeiError, TextsToCompare
from isoprefill.server.rerank.shapes import TEI
from isoprefill.server.responses import json_response
from isoprefill.server.scoring import ERRORS, read_json
from isoprefill.server.service import Service
from isoprefill.server.validation import read_object, validate


class TokenizeRequest(Lenient):
    """A text to make tokens of."""

    prompt: str = Field(description="The text.")
    add_special_tokens: bool = Field(True, description="Begin it with BOS if the model expects it.")
    return_token_strs: bool | None = Field(False, description="Also return each token as text.")
    model: str | None = Field("default", description="The served model's name, or `default`.")


class TokenizeResponse(BaseModel):
    """Token ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TeiTokenizeRequest(Lenient):
    """Texts to make tokens of, as Text Embeddings Inference has it."""

    inputs: TextsToCompare = Field(description="A text, or a list of texts.")
    add_special_tokens: bool = Field(
        True, description="Begin each with BOS if the model expects it."
    )
    model: str | None = Field("default", description="The served model's name, or `default`.")


class TeiToken(BaseModel):
    """A token of a text; one that is not of the text has no place in it."""

    id: int
    text: str
    special: bool
    start: int | None = Field(description="The first of its characters.")
    stop: int | None


class DetokenizeRequest(Lenient):
    """Tokens to make a text of."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True, description="Token ids.")]
    model: str | None = Field("default", description="The served model's name, or `default`.")


class DetokenizeResponse(BaseModel):
    """A text."""

    prompt: str


BODIES: tuple[type[BaseModel], ...] = (TokenizeRequest, TeiTokenizeRequest, DetokenizeRequest)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["tokens"])

    async def answer(
        request: HttpRequest,
        choose: Callable[[Mapping[str, Any]], tuple[Any, Callable[[Any], Any]]],
    ) -> Response:
        """Answers with what `choose` says of the body: what it must be, and what makes the answer of it."""
        with service.accepted():
            data = await read_json(service, request)

            def worked() -> Response:
                raw = read_object(data)
                kind, work = choose(raw)
                body: Any = validate(kind, raw)
                service.check_model(body.model)
                return json_response(work(body))

            try:
                return await service.run(len(data), worked, until=service.deadline())
            except RequestError as error:
                raise ApiError.of(error) from None

    def tokens_of(body: TokenizeRequest) -> dict[str, Any]:
        assert service.preparer is not None
        tokens = service.preparer.text_tokens(body.prompt, bos=body.add_special_tokens)
        made: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": service.preparer.limits.max_positions,
            "tokens": tokens,
            "token_strs": None,
        }
        if body.return_token_strs:
            made["token_strs"] = service.tokenizer.spellings(tokens)
        return made

    def tei_tokens_of(body: TeiTokenizeRequest) -> list[list[dict[str, Any]]]:
        assert service.preparer is not None
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        limits.check_extent(service.settings.limits, Extent(len(texts), 0))
        before = service.preparer.text_tokens("", bos=body.add_special_tokens)
        spelt = service.tokenizer.spellings(before)
        special = [
            {"id": token, "text": text, "special": True, "start": None, "stop": None}
            for token, text in zip(before, spelt, strict=True)
        ]
        return [special + _tei_tokens(service, text) for text in texts]

    def text_of(body: DetokenizeRequest) -> dict[str, Any]:
        assert service.preparer is not None
        vocab_size = service.preparer.limits.vocab_size
        for index, token in enumerate(body.tokens):
            if token >= vocab_size:
                raise RequestError(
                    "token_id_exceeds_vocab", "tokens", index, limit=vocab_size, value=token
                )
        return {"prompt": service.tokenizer.decode(body.tokens)}

    @routes.post(
        "/tokenize",
        responses=responses(
            TokenizeResponse | list[list[TeiToken]], *ERRORS, error=ErrorResponse | TeiError
        ),
        openapi_extra=body_of(TokenizeRequest, TeiTokenizeRequest),
        summary="Make tokens of a text",
    )
    async def tokenize(request: HttpRequest) -> Response:
        def choose(raw: Mapping[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
            if "inputs" not in raw or "prompt" in raw:
                return TokenizeRequest, tokens_of
            request.scope["state"]["error_body"] = TEI.error_body
            return TeiTokenizeRequest, tei_tokens_of

        return await answer(request, choose)

    @routes.post(
        "/detokenize",
        responses=responses(DetokenizeResponse, *ERRORS),
        openapi_extra=body_of(DetokenizeRequest),
        summary="Make a text of tokens",
    )
    async def detokenize(request: HttpRequest) -> Response:
        return await answer(request, lambda raw: (DetokenizeRequest, text_of))

    return routes


def _tei_tokens(service: Service, text: str) -> list[dict[str, Any]]:
    try:
        found = service.tokenizer.encode_with_places(text)
    except ValueError as error:
        raise RequestError("invalid_parameter_type", "inputs", why=str(error)) from error
    return [
        {"id": token, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for token, start, stop in found
    ]
