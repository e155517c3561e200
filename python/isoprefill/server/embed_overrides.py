"""Embedding vectors in a request's body: nested lists, or base64 of their bytes."""

import base64
import binascii
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from isoprefill.request.errors import RequestError
from isoprefill.request.vectors import EmbedOverrides

Dtype = Literal["float32", "bfloat16"]
_ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}


class EncodedVectors(BaseModel):
    """Vectors after one another as bytes, little-endian."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    base64: str
    dtype: Dtype

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        """Refuses further keys, all with one error."""
        if isinstance(value, dict) and not value.keys() <= cls.model_fields.keys():
            raise PydanticCustomError("further_keys", "must have the keys base64 and dtype only")
        return value


# The first error in a list is enough: pydantic would make one of every element, of which there may be millions.
FAIL_FAST: Any = Field(fail_fast=True)


def _form(value: Any) -> str:
    return "list" if isinstance(value, list) else "object"


Vectors = Annotated[
    Annotated[list[Annotated[list[float], FAIL_FAST]], FAIL_FAST, Tag("list")]
    | Annotated[EncodedVectors, Tag("object")],
    Discriminator(_form),
]


def decoded_overrides(
    token_id: int | None,
    query: list[list[float]] | EncodedVectors | None,
    items: list[list[list[float]] | EncodedVectors | None] | None,
    width: int,
) -> EmbedOverrides | None:
    """Returns the overrides of a body, if it has any.

    Args:
        token_id: the body's `embed_override_token_id`.
        query: its `query_embed_overrides`.
        items: its `item_embed_overrides`.
        width: of a vector, the model's hidden size.

    Raises:
        RequestError: vectors without a token, a token without vectors, or bytes that are no vectors of this width.
    """
    if (token_id is None) != (query is None and items is None):
        raise RequestError("invalid_embed_overrides.token", "embed_override_token_id")
    if token_id is None:
        return None
    return EmbedOverrides(
        token_id=token_id,
        query=_decoded(query, width, "query_embed_overrides"),
        items=items
        and [
            _decoded(one, width, "item_embed_overrides", index) for index, one in enumerate(items)
        ],
    )


def _decoded(value: Any, width: int, field: str, *index: int) -> Any:
    """Returns vectors as an array, or lists as they are."""
    if not isinstance(value, EncodedVectors):
        return value
    try:
        data = base64.b64decode(value.base64, validate=True)
    except (binascii.Error, ValueError):
        data = b"?"
    if len(data) % (width * _ITEM_BYTES[value.dtype]):
        raise RequestError(
            "invalid_embed_overrides.bytes", field, *index, limit=width, dtype=value.dtype
        )
    return _floats(data, value.dtype).reshape(-1, width)


def _floats(data: bytes, dtype: Dtype) -> Float32[np.ndarray, "n"]:
    if dtype == "float32":
        return np.frombuffer(data, "<f4")
    # bfloat16 is the upper half of a float32.
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
