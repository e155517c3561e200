"""POST /v1/layout: how a request is packed, what each of its tokens sees, and which tiles are computed."""

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from jaxtyping import Int32
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from isoprefill.modes import Delimiter, Isolation
from isoprefill.request.errors import RequestError
from isoprefill.request.preparer import Preparer
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import limits
from isoprefill.server.api_models import (
    IsolationChoice,
    ModelName,
    PackRequest,
    TokenizationChoice,
    UntrustedText,
)
from isoprefill.server.errors import ApiError
from isoprefill.server.openapi import body_of, responses
from isoprefill.server.pack_options import pack_options
from isoprefill.server.pack_picture import PackPicture
from isoprefill.server.responses import json_response
from isoprefill.server.scoring import ERRORS, read_json
from isoprefill.server.service import Service
from isoprefill.server.validation import read_object, validate


class LayoutRequest(PackRequest):
    """A query and items whose pack is described; nothing is scored."""

    model: ModelName = "default"
    isolation: IsolationChoice = None
    tokenization: TokenizationChoice = "separate"
    untrusted_text: UntrustedText = None
    return_token_strs: bool = Field(False, description="Also return each token as text.")


class Segment(BaseModel):
    """Consecutive rows of one kind."""

    kind: Literal["query", "item", "delimiter"]
    index: int | None = Field(description="Of an item, its place in the list.")
    begin: int
    end: int


class Pairs(BaseModel):
    """Numbers of pairs of a row and a column."""

    seen: int = Field(description="The row sees the column.")
    computed: int = Field(description="Those in `tiles`.")
    causal: int = Field(description="What plain causal attention sees: T (T + 1) / 2.")
    all: int = Field(description="T * T.")


class LayoutResponse(BaseModel):
    """The layout of one request of T tokens, those of delimiters included."""

    id: str
    object: Literal["layout"]
    model: str
    isolation: Isolation
    delimiter: Delimiter
    num_tokens: int = Field(description="T: rows, and columns.")
    segments: list[Segment]
    positions: list[int] = Field(description="[T] of each row, for the model.")
    sees: list[list[int]] = Field(
        description="[T, 4] prefix_begin, prefix_end, own_begin, own_end: the columns that each row sees, half open."
    )
    tile: int = Field(description="Rows and columns of a tile, chosen by T.")
    tiles: list[list[int]] = Field(
        description="[n, 4] row_begin, row_end, column_begin, column_end of the tiles computed; others are skipped."
    )
    pairs: Pairs
    token_strs: list[str] | None = Field(description="[T]")


WORK = 8  # what an answer costs, for each byte of the request as many times as to parse it

BODIES: tuple[type[BaseModel], ...] = (LayoutRequest,)


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["scoring"])

    @routes.post(
        "/v1/layout",
        responses=responses(LayoutResponse, *ERRORS),
        openapi_extra=body_of(LayoutRequest),
        summary="Describe how a request is packed",
    )
    async def layout(request: HttpRequest) -> Response:
        with service.accepted() as preparer:
            data = await read_json(service, request)
            try:
                until = service.deadline()
                body = await service.run(len(data), _validated, data, until=until)
                service.check_model(body.model)
                extent = body.extent_of(body.tokenization)
                limits.check_extent(service.settings.limits, extent)
                size = WORK * max(len(data), extent.num_characters)
                request_id = request.scope["state"]["request_id"]
                return await service.run(
                    size, _answer, service, preparer, body, request_id, until=until
                )
            except RequestError as error:
                raise ApiError.of(error) from None

    return routes


def _validated(data: bytes) -> LayoutRequest:
    return validate(LayoutRequest, read_object(data))


def _answer(service: Service, preparer: Preparer, body: LayoutRequest, request_id: str) -> Response:
    settings = service.settings
    options = pack_options(body, settings)
    prepared = preparer.request(body.query or "", body.item_list, options, request_id=request_id)
    limits.check_all_tokens(settings.limits, [prepared])
    picture = PackPicture.of(prepared)
    num_tokens = picture.positions.size
    made: dict[str, Any] = {
        "id": request_id,
        "object": "layout",
        "model": service.model_names[0],
        "isolation": options.isolation,
        "delimiter": options.delimiter,
        "num_tokens": num_tokens,
        "segments": picture.segments,
        "positions": picture.positions.tolist(),
        "sees": picture.sees.tolist(),
        "tile": picture.tile,
        "tiles": picture.tiles.tolist(),
        "pairs": {
            "seen": picture.pairs_seen,
            "computed": picture.pairs_computed,
            "causal": num_tokens * (num_tokens + 1) // 2,
            "all": num_tokens * num_tokens,
        },
        "token_strs": None,
    }
    if body.return_token_strs:
        tokens = _tokens_of_rows(prepared, picture)
        made["token_strs"] = service.tokenizer.spellings(tokens.tolist())
    return json_response(made)


def _tokens_of_rows(request: TokenRequest, picture: PackPicture) -> Int32[np.ndarray, "T"]:
    """The token of every row, delimiters included."""
    delimiter = np.asarray([request.options.delimiter_id or 0], np.int32)
    parts = {"query": request.query, "delimiter": delimiter}
    return np.concatenate(
        [
            request.items[segment.index] if segment.index is not None else parts[segment.kind]
            for segment in picture.segments
        ]
    )
