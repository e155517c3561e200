"""From the bytes of a request to a checked model, and from what is wrong with them to the error contract's codes."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pydantic
import pydantic_core
from pydantic_core import ErrorDetails

from isoprefill.server.api_models import RerankRequest, ScoreRequest
from isoprefill.server.errors import ApiError

Request = TypeVar("Request", ScoreRequest, RerankRequest)

LARGEST_TOKEN = 2**31 - 1
LONGEST_NAME = 64  # characters of an unknown field that are compared with the known ones


def parse(kind: type[Request], body: bytes) -> Request:
    """The request in a body.

    Raises:
        ApiError: with the first thing that is wrong.
    """
    try:
        raw = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        # pydantic_core says where, and at most which character it expected; never what the body holds.
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ApiError("invalid_body_type", f"The body must be a JSON object, got {_kind(raw)}.")
    try:
        request = kind.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _explained(first, raw, kind.model_fields) from None
    if isinstance(request, ScoreRequest):
        _check_together(request)
    return request


def _check_together(request: ScoreRequest) -> None:
    """What the fields' types do not say."""
    texts = isinstance(request.query, str)
    item = request.items if isinstance(request.items, str) else request.items[0]
    if texts != isinstance(item, str):
        raise ApiError(
            "mixed_input_types",
            "query and items must both be text, or both token ids.",
            "items",
        )
    if request.labels is not None and request.label_token_ids is not None:
        raise ApiError(
            "conflicting_labels", "Give either labels or label_token_ids, not both.", "labels"
        )


def _explained(error: ErrorDetails, raw: dict[str, Any], known: Iterable[str]) -> ApiError:
    field = str(error["loc"][0])
    value = raw.get(field)
    if error["type"] == "extra_forbidden":
        return _unknown(field, known)
    explain = _EXPLANATIONS.get(field)
    if explain is not None:
        return explain(field, value)
    return ApiError("invalid_parameter_type", f"{field}: {error['msg']}.", field)


def _unknown(field: str, known: Iterable[str]) -> ApiError:
    """Names known fields only: the name of the unknown one may be anything that a client sent."""
    unknown = "The body has a field that this route does not know"
    near = difflib.get_close_matches(field[:LONGEST_NAME], known, n=1, cutoff=0.75)
    if near:
        return ApiError("unknown_parameter", f"{unknown}: did you mean {near[0]}?", near[0])
    return ApiError("unknown_parameter", f"{unknown}. It knows {', '.join(known)}.")


def _query(field: str, value: Any) -> ApiError:
    if value is None:
        return ApiError("missing_query", "query is missing.", field)
    if value in ("", []):
        return ApiError("empty_query", "query must not be empty.", field)
    if isinstance(value, list) and (error := _token_list(field, value)):
        return error
    return ApiError(
        "invalid_query_type",
        f"query must be text or a list of token ids, got {_kind(value)}.",
        field,
    )


def _items(field: str, value: Any) -> ApiError:
    noun = field.removesuffix("s")
    if value is None:
        return ApiError(f"missing_{field}", f"{field} is missing.", field)
    if value == []:
        return ApiError(f"empty_{field}", f"{field} must hold at least 1 {noun}, got 0.", field)
    if value == "":
        return ApiError(f"empty_{noun}", f"{field}[0] must not be empty.", f"{field}[0]")
    if not isinstance(value, list):
        return ApiError(
            f"invalid_{field}_type", f"{field} must be a list, got {_kind(value)}.", field
        )
    allowed = (str, dict) if field == "documents" else (str, list)
    for index, item in enumerate(value):
        place = f"{field}[{index}]"
        if not isinstance(item, allowed):
            return ApiError(
                f"invalid_{field}_type",
                f"{place} must be {'text' if field == 'documents' else 'text or a list of token ids'}, "
                f"got {_kind(item)}.",
                place,
            )
        if item in ("", []) or (isinstance(item, dict) and item.get("text") == ""):
            return ApiError(f"empty_{noun}", f"{place} must not be empty.", place)
        if field == "items" and type(item) is not type(value[0]):
            return ApiError(
                "mixed_input_types",
                f"items must all be text, or all token ids; {place} is not what items[0] is.",
                place,
            )
        if isinstance(item, list) and (error := _token_list(place, item)):
            return error
        if isinstance(item, dict) and not isinstance(item.get("text"), str):
            return ApiError(
                "invalid_documents_type", f"{place} must be text or have a text of its own.", place
            )
    return ApiError(f"invalid_{field}_type", f"{field} must be a list of texts.", field)


def _label_token_ids(field: str, value: Any) -> ApiError:
    if not isinstance(value, list):
        return ApiError(
            "invalid_label_token_ids_type",
            f"{field} must be a list of token ids, got {_kind(value)}.",
            field,
        )
    if not value:
        return ApiError("empty_label_token_ids", f"{field} must hold at least 1 token id.", field)
    lists = [isinstance(one, list) for one in value]
    if any(lists) and not all(lists):
        return ApiError(
            "invalid_label_token_ids_type",
            f"{field} must be one list for all items or a list of lists, not both.",
            field,
        )
    for index, one in enumerate(value if any(lists) else [value]):
        place = f"{field}[{index}]" if any(lists) else field
        if not one:
            return ApiError(
                "empty_label_token_ids", f"{place} must hold at least 1 token id.", place
            )
        if error := _token_list(place, one):
            return error
    return ApiError("invalid_label_token_ids_type", f"{field} must be a list of token ids.", field)


def _token_list(place: str, tokens: list[Any]) -> ApiError | None:
    for index, token in enumerate(tokens):
        where = f"{place}[{index}]"
        if not isinstance(token, int) or isinstance(token, bool):
            return ApiError(
                "invalid_token_id_type", f"{where} must be an integer, got {_kind(token)}.", where
            )
        if token < 0:
            return ApiError("negative_token_id", f"{where} must be at least 0.", where)
        if token > LARGEST_TOKEN:
            return ApiError(
                "token_id_exceeds_vocab", f"{where} is larger than any vocabulary.", where
            )
    return None


def _boolean(field: str, value: Any) -> ApiError:
    return ApiError(
        f"invalid_{field}_type", f"{field} must be true or false, got {_kind(value)}.", field
    )


def _labels(field: str, value: Any) -> ApiError:
    if value == [] or (isinstance(value, list) and [] in value):
        return ApiError("empty_label_token_ids", f"{field} must hold at least 1 label.", field)
    return ApiError(
        "invalid_labels_type",
        f"{field} must be a list of texts, or one such list for each item, none of them empty.",
        field,
    )


def _temperature(field: str, value: Any) -> ApiError:
    return ApiError("invalid_temperature", f"{field} must be a finite number above 0.", field)


def _isolation(field: str, value: Any) -> ApiError:
    return ApiError("invalid_isolation", f"{field} must be 'isolated' or 'causal'.", field)


def _tokenization(field: str, value: Any) -> ApiError:
    return ApiError("invalid_tokenization", f"{field} must be 'separate' or 'joint'.", field)


def _top_n(field: str, value: Any) -> ApiError:
    return ApiError("invalid_top_n", f"{field} must be an integer of at least 1.", field)


_EXPLANATIONS: dict[str, Callable[[str, Any], ApiError]] = {
    "query": _query,
    "items": _items,
    "documents": _items,
    "label_token_ids": _label_token_ids,
    "labels": _labels,
    "apply_softmax": _boolean,
    "item_first": _boolean,
    "temperature": _temperature,
    "isolation": _isolation,
    "tokenization": _tokenization,
    "top_n": _top_n,
}


def _kind(value: Any) -> str:
    """What JSON calls the value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {
        str: "a string",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "something else")
