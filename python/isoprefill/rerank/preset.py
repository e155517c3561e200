"""The presets: how models that were trained to rerank were asked when they were, and what to do with the others."""

import dataclasses
import functools
import tomllib
from importlib import resources

# Those that stand in a file, beside that of classification heads.
HEAD = "head"
NAMES = ("chat", "qwen3-reranker", "mxbai-v2", "bge-gemma", "query-likelihood")
Label = str | int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a model is asked whether a document is relevant. docs/rerank.md describes the fields.

    Attributes:
        name: of the preset.
        template: the prompt, in Jinja's language (`template.py`).
        yes: label of a relevant document, as text or token id. Without one, the query's own tokens are read instead. A
            classification model has classes instead of either.
        no: label of an irrelevant one; without one, relevance is P(yes) over the whole vocabulary.
        instruction: what the prompt says where a request gives no instruction.
        chat: the prompt becomes a user's message in the model's chat template.
        names: parts of the names of models that this is for, in lower case.
    """

    name: str
    template: str
    yes: Label | None = None
    no: Label | None = None
    instruction: str = ""
    chat: bool = False
    names: tuple[str, ...] = ()


@functools.cache
def load_preset(name: str) -> Preset:
    """Returns one of `NAMES`, or `HEAD`."""
    file = resources.files(__package__) / "presets" / f"{name}.toml"
    fields = tomllib.loads(file.read_text("utf-8"))
    return Preset(name=name, **fields | {"names": tuple(fields.get("names", ()))})
