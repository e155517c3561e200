"""POST /tokenize and /detokenize, in vLLM's shape: how people find the ids of labels."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from isoprefill.request.errors import RequestError
from isoprefill.server.api_models import Lenient, TokenId
from isoprefill.server.errors import ApiError
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.responses import json_response
from isoprefill.server.scoring import ERRORS, read_json
from isoprefill.server.service import Service
from isoprefill.server.validation import Body, read_object, validate


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


class DetokenizeRequest(Lenient):
    """Tokens to make a text of."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True, description="Token ids.")]
    model: str | None = Field("default", description="The served model's name, or `default`.")


class DetokenizeResponse(BaseModel):
    """A text."""

    prompt: str


BODIES: tuple[type[BaseModel], ...] = (TokenizeRequest, DetokenizeRequest)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["tokens"])

    async def answer(
        request: HttpRequest, kind: type[Body], work: Callable[[Body], dict[str, Any]]
    ) -> Response:
        with service.accepted():
            data = await read_json(service, request)

            def worked() -> Response:
                body: Any = validate(kind, read_object(data))
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
        responses=responses(TokenizeResponse, *ERRORS),
        openapi_extra=body_of(TokenizeRequest),
        summary="Make tokens of a text",
    )
    async def tokenize(request: HttpRequest) -> Response:
        return await answer(request, TokenizeRequest, tokens_of)

    @routes.post(
        "/detokenize",
        responses=responses(DetokenizeResponse, *ERRORS),
        openapi_extra=body_of(DetokenizeRequest),
        summary="Make a text of tokens",
    )
    async def detokenize(request: HttpRequest) -> Response:
        return await answer(request, DetokenizeRequest, text_of)

    return routes
