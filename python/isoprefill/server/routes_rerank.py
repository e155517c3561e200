"""POST /v1/rerank: documents by their relevance to a query, in the format that rerank clients expect.

Each prompt is tokenised as a whole, as the model was trained to read it. What stands before {document} in the template,
with the query in it, is the query of the scoring request, as far as its tokens are the same before every document; the
rest of each prompt is an item. So the documents are isolated from each other, and what comes before them is computed
once. A document's relevance is P(yes) / (P(yes) + P(no)).
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


def unusable_label(preparer: Preparer, settings: RerankSettings) -> str | None:
    """The label that this model cannot say in one token, if there is one."""
    for label in (settings.relevant, settings.irrelevant):
        try:
            preparer.label_id(label)
        except RequestError:
            return label
    return None


def _extent(body: RerankRequest, settings: ServerSettings) -> Extent:
    number, rerank = len(body.documents), settings.rerank
    labels = (rerank.relevant, rerank.irrelevant)
    prompts = number * (len(rerank.template) + len(body.query)) + sum(map(len, body.texts))
    return Extent(number, prompts, joint=True, labels={"label_token_ids": labels})


def _prepare(
    body: RerankRequest, preparer: Preparer, settings: ServerSettings, request_id: str
) -> TokenRequest:
    rerank = settings.rerank
    try:
        labels = preparer.labels((rerank.relevant, rerank.irrelevant))
    except RequestError:
        raise RequestError("rerank_unavailable") from None
    before, after = rerank.template.split("{document}")
    documents = body.texts
    if body.max_tokens_per_doc is not None:
        documents = [
            _beginning(preparer.tokenizer, text, body.max_tokens_per_doc) for text in documents
        ]
    return preparer.request(
        before.replace("{query}", body.query),
        [document + after for document in documents],
        ScoreOptions(
            labels=labels,
            apply_softmax=True,
            tokenization="joint",
            delimiter=settings.delimiter,
            delimiter_id=settings.delimiter_token_id,
        ),
        request_id=request_id,
    )


def _respond(body: RerankRequest, result: ScoreResult) -> dict[str, Any]:
    texts = body.texts
    results: list[dict[str, Any]] = []
    for index in result.best_first()[: body.top_n]:
        one: dict[str, Any] = {"index": index, "relevance_score": float(result.scores[index, 0])}
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
