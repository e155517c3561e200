"""What a model's files say of it beside its weights: names and prompt templates. Importing this does not import jax."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoprefill.models.files.json_file import read_json_object
from isoprefill.models.sources.source import ModelSource, find_model


@dataclasses.dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as its files describe it.

    Attributes:
        names: what its files and their folders call it.
        architecture: such as "Qwen3ForCausalLM", or in a GGUF file "qwen3".
        chat_template: in Jinja's language, if it has one.
        rerank_template: a GGUF file's template named "rerank", with `{query}` and `{document}`, if it has one.
    """

    names: tuple[str, ...] = ()
    architecture: str = ""
    chat_template: str | None = None
    rerank_template: str | None = None


def describe_model(source: str | Path | ModelSource) -> ModelDescription:
    """Reads a model's description.

    Args:
        source: as for `find_model`.

    Raises:
        ValueError: there is no such model, or a file cannot be read.
        pinned.FetchError: a pinned model could not be fetched.
    """
    found = find_model(source)
    # A snapshot in the Hugging Face cache is models--OWNER--NAME/snapshots/HASH.
    folders = found.path.resolve().parts[-3:]
    if found.kind == "gguf":
        metadata = found.gguf_header.metadata
        return ModelDescription(
            names=(*folders, *_texts(metadata, "general.name", "general.basename")),
            architecture=str(metadata.get("general.architecture", "")),
            chat_template=_text(metadata.get("tokenizer.chat_template")),
            rerank_template=_text(metadata.get("tokenizer.chat_template.rerank")),
        )
    config = read_json_object(found.path / "config.json")
    architectures = config.get("architectures")
    return ModelDescription(
        names=(*folders, *_texts(config, "_name_or_path")),
        architecture=str(architectures[0])
        if isinstance(architectures, list) and architectures
        else "",
        chat_template=_chat_template(found.path),
    )


def _chat_template(directory: Path) -> str | None:
    """The template of a directory: in a file of its own, or in tokenizer_config.json, there perhaps by name."""
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            continue
        value = read_json_object(directory / name).get("chat_template")
        if isinstance(value, list):
            named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
            value = named.get("default")
        if isinstance(value, str):
            return value
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(values: Mapping[str, Any], *keys: str) -> list[str]:
    return [value for value in map(values.get, keys) if isinstance(value, str)]
