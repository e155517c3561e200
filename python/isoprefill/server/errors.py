"""The error contract: every answer that is not 200 has a status, a type, a code and a parameter."""

import dataclasses
import math
from typing import Literal

from isoprefill.request.errors import RequestError

ErrorType = Literal[
    "missing_parameter_error",
    "invalid_value_error",
    "invalid_request_error",
    "authentication_error",
    "model_error",
    "rate_limit_error",
    "server_error",
]

# status and type of every code; docs/api.md has the table with what each one means.
CODES: dict[str, tuple[int, ErrorType]] = {
    "missing_query": (400, "missing_parameter_error"),
    "missing_items": (400, "missing_parameter_error"),
    "missing_documents": (400, "missing_parameter_error"),
    "missing_label_token_ids": (400, "missing_parameter_error"),
    "empty_query": (400, "invalid_value_error"),
    "empty_items": (400, "invalid_value_error"),
    "empty_item": (400, "invalid_value_error"),
    "empty_documents": (400, "invalid_value_error"),
    "empty_document": (400, "invalid_value_error"),
    "empty_label_token_ids": (400, "invalid_value_error"),
    "label_count_mismatch": (400, "invalid_value_error"),
    "negative_token_id": (400, "invalid_value_error"),
    "invalid_temperature": (400, "invalid_value_error"),
    "invalid_isolation": (400, "invalid_value_error"),
    "invalid_tokenization": (400, "invalid_value_error"),
    "invalid_label": (400, "invalid_value_error"),
    "invalid_top_n": (400, "invalid_value_error"),
    "delimiter_in_text": (400, "invalid_value_error"),
    "invalid_embed_overrides": (400, "invalid_value_error"),
    "invalid_extraction_token": (400, "invalid_value_error"),
    "context_length_exceeded": (400, "invalid_value_error"),
    "too_many_items": (400, "invalid_value_error"),
    "too_many_tokens": (400, "invalid_value_error"),
    "too_many_labels": (400, "invalid_value_error"),
    "invalid_json": (400, "invalid_request_error"),
    "invalid_body_type": (400, "invalid_request_error"),
    "invalid_query_type": (400, "invalid_request_error"),
    "invalid_items_type": (400, "invalid_request_error"),
    "invalid_documents_type": (400, "invalid_request_error"),
    "mixed_input_types": (400, "invalid_request_error"),
    "invalid_label_token_ids_type": (400, "invalid_request_error"),
    "invalid_labels_type": (400, "invalid_request_error"),
    "conflicting_labels": (400, "invalid_request_error"),
    "invalid_token_id_type": (400, "invalid_request_error"),
    "invalid_apply_softmax_type": (400, "invalid_request_error"),
    "invalid_item_first_type": (400, "invalid_request_error"),
    "invalid_parameter_type": (400, "invalid_request_error"),
    "unknown_parameter": (400, "invalid_request_error"),
    "classification_model": (400, "invalid_request_error"),
    "rerank_unavailable": (400, "invalid_request_error"),
    "invalid_api_key": (401, "authentication_error"),
    "model_not_found": (404, "model_error"),
    "not_found": (404, "invalid_request_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "request_read_timeout": (408, "invalid_request_error"),
    "body_too_large": (413, "invalid_request_error"),
    "unsupported_media_type": (415, "invalid_request_error"),
    "token_id_exceeds_vocab": (422, "invalid_value_error"),
    "rate_limit_exceeded": (429, "rate_limit_error"),
    "queue_full": (429, "rate_limit_error"),
    "internal_error": (500, "server_error"),
    "model_not_loaded": (503, "server_error"),
    "request_timeout": (503, "server_error"),
}

_OF_DOCUMENTS = {
    "missing_items": "missing_documents",
    "empty_items": "empty_documents",
    "empty_item": "empty_document",
    "invalid_items_type": "invalid_documents_type",
}
# Codes of a route that calls the items something else.
CODES_OF: dict[str, dict[str, str]] = {"documents": _OF_DOCUMENTS, "texts": _OF_DOCUMENTS}


@dataclasses.dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        code: one of `CODES`.
        message: for people. Never holds what a client sent beyond a number or a field's name.
        param: the field that is wrong, with its place, such as "items[3]".
        retry_after_s: after how many seconds it makes sense to try again, where it does at all.
    """

    code: str
    message: str
    param: str | None = None
    retry_after_s: float = 1.0

    @classmethod
    def of(cls, error: RequestError, items: str = "items") -> "ApiError":
        """Returns the answer to a request that cannot be scored.

        Args:
            error: what is wrong with it.
            items: what its route calls the items.
        """
        code = CODES_OF.get(items, {}).get(error.code, error.code)
        if code not in CODES:
            code = "invalid_parameter_type"
        return cls(code, error.message(items), error.place(items))

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    @property
    def type(self) -> ErrorType:
        return CODES[self.code][1]

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object that clients get, in OpenAI's shape."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.status in (429, 503):
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def model_not_loaded(message: str = "The model is being loaded.") -> ApiError:
    """Returns the answer where there is nothing to score with for a while."""
    return ApiError("model_not_loaded", message)


def server_ends() -> ApiError:
    """Returns the answer to what a server that was told to end does not score any more."""
    return model_not_loaded("The server ends, and did not score this request before it.")
