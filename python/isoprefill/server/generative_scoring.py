"""POST /generative_scoring: labels after items, as vLLM has them."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.result import ScoreResult
from isoprefill.server.api_models import Items, LabelIds, Lenient, Query, ScoreRequest
from isoprefill.server.errors import ApiError
from isoprefill.server.limits import Extent
from isoprefill.server.rerank.bodies import PairScoreResponse
from isoprefill.server.responses import usage_of
from isoprefill.server.routes_score import SCORE
from isoprefill.server.scoring import Prepared, ScoringRoute
from isoprefill.server.service import Service
from isoprefill.server.validation import validate


class GenerativeScoringRequest(Lenient):
    """Items to score by labels. Fields that are not listed are ignored."""

    query: Query = Field(description="What every item is scored against: text or token ids.")
    items: Items = Field(description="The items: text or token ids, whichever the query is.")
    label_token_ids: LabelIds = Field(
        description="The labels; an item's score is the probability of its first."
    )
    apply_softmax: bool = Field(True, description="Normalise over the labels.")
    item_first: bool = Field(False, description="Score item + query instead of query + item.")
    add_special_tokens: bool = Field(
        True, description="Begin text with BOS if the model expects it."
    )
    model: str | None = Field("default", description="The served model's name, or `default`.")

    def plain(self, tokenizer: Tokenizer | None) -> ScoreRequest:
        """The same as a body of /v1/score."""
        query, items = self.query, self.items
        if tokenizer is not None and isinstance(query, str) and not self.add_special_tokens:
            texts = [items] if isinstance(items, str) else items
            query = tokenizer.encode(query)
            items = [tokenizer.encode(text) for text in texts if isinstance(text, str)]
        fields = {
            "query": query,
            "items": items,
            "label_token_ids": self.label_token_ids,
            "apply_softmax": self.apply_softmax,
            "item_first": self.item_first,
        }
        return validate(ScoreRequest, fields)


class GenerativeScoring:
    """A `scoring.Exchange`."""

    body = GenerativeScoringRequest
    items = "items"

    def extent(self, body: GenerativeScoringRequest, service: Service) -> Extent:
        return body.plain(None).extent

    def prepare(
        self, body: GenerativeScoringRequest, service: Service, request_id: str
    ) -> Prepared:
        requests, _ = SCORE.prepare(body.plain(service.tokenizer), service, request_id)

        def respond(results: Sequence[ScoreResult], common: dict[str, Any]) -> Any:
            first = results[0].scores[:, 0].tolist()
            data = [
                {"index": index, "object": "score", "score": score}
                for index, score in enumerate(first)
            ]
            return common | {"object": "list", "data": data, "usage": usage_of(results)}

        return Prepared(requests, respond)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


EXCHANGE = GenerativeScoring()
ROUTE: ScoringRoute[Any] = ScoringRoute(
    name="generative_scoring",
    tag="scoring",
    summary="Score items by labels, as vLLM does",
    path="/generative_scoring",
    bodies=(GenerativeScoringRequest,),
    response=PairScoreResponse,
    choose=lambda raw: EXCHANGE,
)
