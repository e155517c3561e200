"""POST /v1/rerank: documents by their relevance to a query, in the format that rerank clients expect.

The prompt template is cut before {document} and the white space before that: what stands before the cut, with the query
in it, is the query of the scoring request, and what stands after the document ends every item. So the documents are
isolated from each other, and what comes before them is computed once. A document's relevance is
P(yes) / (P(yes) + P(no)), or the probability of the relevant class where the model is a classifier.
"""

from typing import Any

from isoprefill.models.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import ScoreResult
from isoprefill.request.token_request import TokenRequest
from isoprefill.server.api_models import RerankRequest, RerankResponse
from isoprefill.server.limits import Extent
from isoprefill.server.responses import usage
from isoprefill.server.scoring import ScoringRoute
from isoprefill.server.settings import RerankSettings, ServerSettings

# What a classifier reads unless the server's prompt was set: the default prompt asks for a word.
PAIR = "{query}{document}"


def unusable_label(preparer: Preparer, settings: RerankSettings) -> str | None:
    """The label that this model cannot say in one token, if there is one. A classifier says none."""
    if preparer.classes is not None:
        return None
    for label in (settings.relevant, settings.irrelevant):
        try:
            preparer.label_id(label)
        except RequestError:
            return label
    return None


def _extent(body: RerankRequest, settings: ServerSettings) -> Extent:
    number, template = len(body.documents), settings.rerank
    labels = (template.relevant, template.irrelevant)
    return Extent(number, number * len(template.template), labels={"label_token_ids": labels})


def _prepare(
    body: RerankRequest, preparer: Preparer, settings: ServerSettings, request_id: str
) -> TokenRequest:
    template = settings.rerank.template
    if preparer.classes is not None:
        labels = None
        if preparer.classes.relevant is None:
            number = len(preparer.classes.names)
            raise RequestError("rerank_unavailable.classes", value=number)
        if template == RerankSettings().template:
            template = PAIR
    else:
        try:
            labels = preparer.labels((settings.rerank.relevant, settings.rerank.irrelevant))
        except RequestError:
            raise RequestError("rerank_unavailable") from None
    before, after = template.split("{document}")
    head = before.rstrip()  # the white space belongs to the document's first token
    space = before[len(head) :]
    documents = body.texts
    if body.max_tokens_per_doc is not None:
        documents = [
            _beginning(preparer.tokenizer, text, body.max_tokens_per_doc) for text in documents
        ]
    return preparer.request(
        head.replace("{query}", body.query),
        [space + document + after for document in documents],
        ScoreOptions(
            labels=labels,
            apply_softmax=True,
            delimiter=settings.delimiter,
            delimiter_id=settings.delimiter_token_id,
        ),
        request_id=request_id,
    )


def _respond(body: RerankRequest, result: ScoreResult) -> dict[str, Any]:
    texts = body.texts
    column = 0 if result.classes is None else result.classes.relevant
    results: list[dict[str, Any]] = []
    for index in result.best_first()[: body.top_n]:
        one: dict[str, Any] = {
            "index": index,
            "relevance_score": float(result.scores[index, column]),
        }
        if body.return_documents is not False:
            one["document"] = {"text": texts[index]}
        results.append(one)
    return {"results": results, "usage": usage(result)}


def _beginning(tokenizer: Tokenizer, text: str, most: int) -> str:
    """The text, or what its first `most` tokens spell, without a character that the cut goes through."""
    tokens = tokenizer.encode(text)
    if len(tokens) <= most:
        return text
    return tokenizer.decode(tokens[:most]).rstrip("\ufffd")


ROUTE = ScoringRoute(
    name="rerank",
    tag="rerank",
    summary="Order documents by their relevance to a query",
    # Where Jina's, vLLM's and SGLang's clients look, and Cohere's newer ones.
    paths=("/v1/rerank", "/v2/rerank", "/rerank"),
    body=RerankRequest,
    response=RerankResponse,
    items="documents",
    extent=_extent,
    prepare=_prepare,
    respond=_respond,
)
