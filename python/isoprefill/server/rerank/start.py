"""Makes the reranker of a server when its model is known, and logs which preset it is."""

from isoprefill.models.sources.description import ModelDescription
from isoprefill.request.preparer import Preparer
from isoprefill.server import logs
from isoprefill.server.rerank.choice import choose_preset
from isoprefill.server.rerank.preset import load_preset
from isoprefill.server.rerank.reranker import Reranker
from isoprefill.server.settings import ServerSettings


def make_reranker(
    settings: ServerSettings, model: ModelDescription, preparer: Preparer
) -> Reranker | None:
    """Returns the reranker; None if the server does not rerank.

    Raises:
        ValueError: what was set does not go with the model; says why.
    """
    choice = choose_preset(settings.rerank, model, has_classes=preparer.classes is not None)
    if choice.preset is None:
        logs.event("rerank_preset", preset="none", reason=choice.reason)
        return None
    try:
        reranker = Reranker.of(choice.preset, preparer, settings, model.chat_template)
    except ValueError as error:
        if (
            preparer.classes is not None
            or not choice.chosen
            or settings.rerank.yes is not None
            or settings.rerank.no is not None
        ):
            raise
        reason = f"{choice.reason}, but {error}"
        reranker = Reranker.of(load_preset("query-likelihood"), preparer, settings)
        logs.event("rerank_preset", preset=reranker.preset.name, reason=reason)
        return reranker
    logs.event("rerank_preset", preset=choice.preset.name, reason=choice.reason)
    return reranker
