"""Makes the reranker of a server when its model is known, and logs which preset it is."""

from isoprefill.models.sources.description import ModelDescription
from isoprefill.request.preparer import Preparer
from isoprefill.rerank.chosen_model import chosen_model
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.rerank.terms import Terms
from isoprefill.server import logs
from isoprefill.server.settings import ServerSettings


def make_reranker(
    settings: ServerSettings, model: ModelDescription, preparer: Preparer
) -> PromptedModel | None:
    """Returns the reranker; None if the server does not rerank.

    Raises:
        ValueError: what was set does not go with the model; says why.
    """
    terms = Terms(
        untrusted_text=settings.untrusted_text != "never",
        delimiter=settings.delimiter,
        delimiter_id=settings.delimiter_token_id,
        limits=settings.limits.tokens,
        max_characters=settings.limits.max_body_bytes,
    )
    made, reason = chosen_model(settings.rerank, model, preparer, terms)
    logs.event("rerank_preset", preset="none" if made is None else made.preset.name, reason=reason)
    return made
