"""Makes a model ready for the preset that was set, or for the one that its files suggest."""

from typing import NamedTuple

from isoprefill.models.sources.description import ModelDescription
from isoprefill.request.preparer import Preparer
from isoprefill.rerank.choice import choose_preset
from isoprefill.rerank.preset import load_preset
from isoprefill.rerank.prompted_model import PromptedModel
from isoprefill.rerank.settings import RerankSettings
from isoprefill.rerank.terms import Terms


class ChosenModel(NamedTuple):
    """A model with a preset, or None if it is not to rerank, and why it is this preset."""

    model: PromptedModel | None
    reason: str


def chosen_model(
    settings: RerankSettings, model: ModelDescription, preparer: Preparer, terms: Terms
) -> ChosenModel:
    """Returns the model with its preset.

    Args:
        settings: what was set.
        model: what its files say.
        preparer: of the model.
        terms: of all jobs.

    Raises:
        ValueError: what was set does not go with the model; says why.
    """
    choice = choose_preset(settings, model, has_classes=preparer.limits.classes is not None)
    if choice.preset is None:
        return ChosenModel(None, choice.reason)
    try:
        made = PromptedModel.of(choice.preset, preparer, terms, model.chat_template)
    except ValueError as error:
        if (
            preparer.limits.classes is not None
            or not choice.chosen
            or settings.yes is not None
            or settings.no is not None
        ):
            raise
        fallback = PromptedModel.of(load_preset("query-likelihood"), preparer, terms)
        return ChosenModel(fallback, f"{choice.reason}, but {error}")
    return ChosenModel(made, choice.reason)
