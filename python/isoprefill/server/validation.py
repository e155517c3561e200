"""Turns the bytes of a request into a checked model, and pydantic's errors into request errors."""

import codecs
import contextlib
import difflib
import json
import re
from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import pydantic
import pydantic_core
from pydantic_core import ErrorDetails

from isoprefill.request.errors import MESSAGES, RequestError
from isoprefill.request.unique_keys import DuplicateKeyError, unique_object

Body = TypeVar("Body", bound=pydantic.BaseModel)

LONGEST_NAME = 64  # characters of an unknown field that are compared with the known ones

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")

# The rules for what `_what` finds wrong with a field, and for everything else if it is not invalid_FIELD_type.
_RULES = {
    ("query", "absent"): "missing_query",
    ("query", "empty"): "empty_query",
    ("items", "absent"): "missing_items",
    ("items", "empty"): "empty_item",
    ("items", "other_form"): "mixed_input_types.items",
    ("label_token_ids", "empty"): "empty_label_token_ids",
    ("labels", "too_short"): "empty_label_token_ids.text",
}
_RULES_OF_TOKENS = {
    "int_type": "invalid_token_id_type",
    "greater_than_equal": "negative_token_id",
    "less_than_equal": "token_id_exceeds_vocab.int32",
}
_OTHER_RULES = {
    "temperature": "invalid_temperature.json",
    "isolation": "invalid_isolation",
    "tokenization": "invalid_tokenization",
    "top_n": "invalid_top_n",
}
_ITEMS = ("documents", "texts")  # other names of the items
# What a field must hold, and what each element of it must be.
_EXPECTED = {
    "query": ("text or a list of token ids", "an integer"),
    "items": ("text or a list of texts or token lists", "text or a list of token ids"),
    "documents": ("a list of texts", "text, or an object with a text"),
    "texts": ("a list of texts", "text"),
    "label_token_ids": ("a list of token ids, or one such list for each item", "an integer"),
}


def read_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object that a body holds.

    Raises:
        RequestError: it is none.
    """
    try:
        raw = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise RequestError("invalid_json", why=_why_not_json(body, str(error))) from None
    is_object = isinstance(raw, dict)
    # Every key is followed by a colon: where there are as many as keys, no key is there twice.
    if not is_object or body.count(b":") != len(raw):
        _check_keys(body)
    if not is_object:
        raise RequestError("invalid_body_type", got=_kind(raw))
    return raw


def validate(kind: type[Body], raw: dict[str, Any]) -> Body:
    """Returns an object as a request of this kind.

    Raises:
        RequestError: with the first thing that is wrong.
    """
    known = kind.model_fields
    if kind.model_config.get("extra") == "forbid":  # pydantic would make an error of each
        for name in raw:
            if name not in known:
                raise _unknown(name, known)
    try:
        return kind.model_validate(raw)
    except pydantic.ValidationError as error:
        raise _request_error(error.errors(include_url=False)[0], known) from None


def _why_not_json(body: bytes, reason: str) -> str:
    """Returns what is wrong with a body that is no JSON.

    Args:
        body: it.
        reason: of pydantic_core, which says where, and at most which character it expected; never what the body holds.
    """
    start = body[:4]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in start:
        return "it is UTF-16 or UTF-32, and must be UTF-8"
    if start.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"it must be UTF-8, and is not at byte {error.start}"
    if "surrogate" in reason or "hex escape" in reason:
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(body)  # which takes what is no character
            place = reason[reason.rindex(" at line ") :]
            return f"a \\u escape is half of a surrogate pair, which is no character,{place}"
    return reason


def _request_error(error: ErrorDetails, known: Collection[str]) -> RequestError:
    """The same error with the API's code for it."""
    context = error.get("ctx", {})
    if error["type"] == "value_error":  # raised by a validator of ours
        ours: RequestError = context["error"]
        return ours
    name, *rest = error["loc"]
    index = [place for place in rest if isinstance(place, int)]
    field = "items" if name in _ITEMS else str(name)
    value = error["input"]
    what = _what(error, index)
    if field == "labels":
        index, what = [], error["type"]
    if field == "items" and what == "empty" and not index:
        if value == []:
            return RequestError("empty_items", "items")
        index = [0]  # "" is a list of one
    rule = _RULES.get((field, what)) or _OTHER_RULES.get(field, f"invalid_{field}_type")
    if field == "top_n" and "documents" in known:
        rule = "invalid_top_n.all"
    elif field in ("query", "items", "label_token_ids"):
        rule = _RULES_OF_TOKENS.get(what, rule)
    return RequestError(
        rule if rule in MESSAGES else "invalid_parameter_type",
        field,
        *index,
        expected=_expected(str(name), bool(index), known),
        choices=context.get("expected"),
        got="another text"
        if error["type"] == "literal_error" and isinstance(value, str)
        else _kind(value),
        value=_number(value),
        why=_why(error),
    )


def _expected(name: str, is_element: bool, known: Collection[str]) -> str:
    """What a field, or an element of it, must be; routes without token ids take a query of text only."""
    if name == "query" and "items" not in known:
        return "text"
    return _EXPECTED[name][is_element] if name in _EXPECTED else ""


def _why(error: ErrorDetails) -> str:
    """pydantic's words with what was there instead, and without those for its own users."""
    words, value = error["msg"].replace(" after validation", ""), error["input"]
    if error["type"] in ("missing", "too_short", "too_long"):  # said, or nothing to say
        return words
    if error["type"] == "union_tag_invalid":
        words = f"must be one of {error['ctx']['expected_tags']}"
    return f"{words}, got {_number(value) if type(value) is int else _kind(value)}"


def _what(error: ErrorDetails, index: list[int]) -> str:
    """pydantic's name of the error, unless the value is absent, empty, or of another form than those before it."""
    kind, value = error["type"], error["input"]
    if len(error["loc"]) == 1 and (kind == "missing" or value is None):
        return "absent"
    if kind in ("string_too_short", "too_short"):
        return "empty"
    if kind in ("string_type", "list_type"):
        if value in ("", []):
            return "empty"
        if len(index) == 1 and isinstance(value, str | list):
            return "other_form"
    return kind


def _unknown(field: str, known: Iterable[str]) -> RequestError:
    near = difflib.get_close_matches(field[:LONGEST_NAME], known, n=1, cutoff=0.75)
    name = _shown(field)
    if near:
        return RequestError("unknown_parameter.near", near[0], name=name)
    return RequestError("unknown_parameter", name=name, known=", ".join(known))


def _shown(name: str) -> str:
    """Returns the name of a field as a message may hold it: a client may have sent anything."""
    if len(name) <= LONGEST_NAME and _PLAIN_NAME.fullmatch(name):
        return repr(name)
    return f"(a name of {len(name)} characters)"


def _check_keys(body: bytes) -> None:
    """Raises RequestError if an object has a key twice: readers of JSON disagree on which of the values counts."""
    try:
        json.loads(body, object_pairs_hook=unique_object)
    except DuplicateKeyError as error:
        raise RequestError("invalid_json.duplicate", name=_shown(error.key)) from None
    except (ValueError, RecursionError):
        return  # pydantic has accepted it


def _number(value: Any) -> str:
    """The value if it is a number of some length."""
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return str(value)
    return "a number beyond 64 bits"


def _kind(value: Any) -> str:
    """What JSON calls the value's type."""
    return _KINDS[type(value)]


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    str: "a string",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
}
