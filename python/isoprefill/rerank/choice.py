"""Which preset a model is asked with: the one that was set, or the one that its files suggest."""

import dataclasses
from typing import Any

from isoprefill.models.sources.description import ModelDescription
from isoprefill.rerank.preset import HEAD, NAMES, Preset, load_preset
from isoprefill.rerank.settings import RerankSettings
from isoprefill.rerank.template import from_placeholders


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A preset, and why it is the one.

    Attributes:
        preset: None if the server does not rerank.
        reason: for the log.
        chosen: whether the server chose it by itself.
    """

    preset: Preset | None
    reason: str
    chosen: bool = False


def choose_preset(
    settings: RerankSettings, model: ModelDescription, *, has_classes: bool = False
) -> Choice:
    """Returns the preset of the settings, with their labels if they have some.

    Args:
        settings: what was set.
        model: what the model's files say.
        has_classes: the model has a classification head and can say no labels.

    Raises:
        ValueError: labels were set that nothing reads.
    """
    if settings.template is not None:
        preset = Preset(name="template", template=settings.template, yes=" Yes", no=" No")
        choice = Choice(preset, "--rerank-template")
    elif settings.preset == "none":
        return Choice(None, "--rerank-preset none")
    elif settings.preset != "auto":
        choice = Choice(load_preset(settings.preset), "--rerank-preset")
    else:
        choice = _by_model(model, has_classes)
    assert choice.preset is not None
    labels: dict[str, Any] = {"yes": settings.yes, "no": settings.no}
    given = {name: label for name, label in labels.items() if label is not None}
    if given and (has_classes or choice.preset.yes is None):
        raise ValueError(
            f"rerank-{next(iter(given))} has no meaning with the preset {choice.preset.name!r} ({choice.reason}), "
            "which reads no labels: give --rerank-template or another --rerank-preset"
        )
    return dataclasses.replace(choice, preset=dataclasses.replace(choice.preset, **given))


def _by_model(model: ModelDescription, has_classes: bool) -> Choice:
    if model.rerank_template is not None:
        template = from_placeholders(model.rerank_template)
        preset = Preset(name="gguf", template=template, yes="yes", no="no")
        return Choice(preset, "the file has a template named rerank", chosen=True)
    for preset in map(load_preset, NAMES):
        for known in preset.names:
            if any(known in name.lower() for name in model.names):
                return Choice(preset, f"the model is called {known}", chosen=True)
        # A model that was renamed still has the words it was trained with.
        words = preset.template.split("{{")[0].strip()
        if preset.names and words and words in (model.chat_template or ""):
            return Choice(preset, "the model's chat template has its words", chosen=True)
    if has_classes:
        return Choice(load_preset(HEAD), "the model has a classification head", chosen=True)
    return Choice(
        load_preset("query-likelihood"),
        "nothing in the model's files says that it was trained to rerank",
        chosen=True,
    )
