"""Embedding vectors in the place of tokens. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from isoprefill.integers import shortened
from isoprefill.request.errors import RequestError
from isoprefill.request.token_request import Tokens, Vectors


@dataclasses.dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EmbedOverrides:
    """Vectors that take the places of a token, in order; SGLang's fields of these names.

    Attributes:
        token_id: whose places, `embed_override_token_id`.
        query: [vectors, E] for the places in the query; None: there the token is an ordinary one.
        items: the same for each item; None: for no item.
    """

    token_id: int
    query: Any = None
    items: Sequence[Any] | None = None


class VectorTable:
    """The vectors of a request, as they are found."""

    def __init__(self, width: int) -> None:
        """Begins with none.

        Args:
            width: of a vector, the model's hidden size.
        """
        self._width = width
        self._parts: list[Vectors] = []
        self._number = 0

    def add(self, values: Any, field: str, *index: int) -> Tokens:
        """Takes vectors; returns ids, below 0, that stand for them.

        Args:
            values: floating-point [vectors, E].
            field: what to call them in errors.
            index: their place in the field.

        Raises:
            RequestError: they have another width, or are not finite; says where.
        """
        vectors = _as_float32(values)
        if vectors is None or vectors.shape[1] != self._width:
            place, got = _wrong(values, self._width)
            raise RequestError(
                "invalid_embed_overrides.width",
                field,
                *index,
                *place,
                limit=self._width,
                value=got,
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise RequestError(
                "invalid_embed_overrides.finite", field, *index, int(finite.argmin())
            )
        ids = -1 - np.arange(self._number, self._number + len(vectors), dtype=np.int32)
        self._parts.append(vectors)
        self._number += len(vectors)
        return ids

    def override(
        self, tokens: Tokens, token_id: int, values: Any, field: str, *index: int
    ) -> Tokens:
        """Returns tokens with vectors in the places of one of them.

        Raises:
            RequestError: there are not as many vectors as places, or see `add`.
        """
        places = np.flatnonzero(tokens == token_id)
        if len(values) != places.size:
            raise RequestError(
                "invalid_embed_overrides.count",
                field,
                *index,
                limit=places.size,
                value=len(values),
            )
        if not places.size:
            return tokens
        tokens = tokens.copy()
        tokens[places] = self.add(values, field, *index)
        return tokens

    @property
    def vectors(self) -> Vectors | None:
        """All of them, or None if there are none."""
        return np.concatenate(self._parts) if self._parts else None


def is_vectors(value: Any) -> bool:
    """Whether a query or an item is an array of vectors and not of token ids."""
    return hasattr(value, "dtype") and _is_floating(np.dtype(value.dtype))


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # which NumPy does not know as a float


def _as_float32(values: Any) -> Float32[np.ndarray, "vectors E"] | None:
    """Returns vectors as float32; None if they are not vectors of one width."""
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if array.ndim != 2 or not (_is_floating(array.dtype) or array.dtype.kind in "iu"):
        return None
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return array.astype(np.float32)


def _wrong(values: Any, width: int) -> tuple[tuple[int, ...], str]:
    """Returns which vector has another width, and what it has."""
    if hasattr(values, "shape"):
        return (), f"an array of {list(values.shape)}"
    for place, one in enumerate(values):
        if not hasattr(one, "__len__"):
            return (place,), shortened(one)
        if len(one) != width:
            return (place,), str(len(one))
    return (), shortened(values)
