"""A tokenizer for texts that continue another text.

Some tokenizers put a space before a text, or take white space away from its beginning (SentencePiece's of Llama 2 and
Mistral do the first). In the middle of a text nothing of that happens, and a text that continues another is in the
middle of one.
"""

import json
from typing import Any

import tokenizers
from tokenizers import models


def continuation_of(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Returns the tokenizer of what continues a text; `backend` itself where it begins no text in a special way.

    It shares the vocabulary with `backend`.
    """
    steps = [("normalizer", backend.normalizer), ("pre_tokenizer", backend.pre_tokenizer)]
    # Without the vocabulary, which takes long to write out.
    bare = tokenizers.Tokenizer(models.BPE())
    for name, step in steps:
        if step is not None:
            setattr(bare, name, step)
    described = json.loads(bare.to_str())
    continuing = {name: _continuing(described[name]) for name, _ in steps}
    if all(continuing[name] == described[name] for name in continuing):
        return backend
    made = tokenizers.Tokenizer.from_str(json.dumps(described | continuing))
    result = tokenizers.Tokenizer(backend.model)
    for name in continuing:
        if (step := getattr(made, name)) is not None:
            setattr(result, name, step)
    # In the order of their ids, which gives each its id again.
    result.add_tokens([token for _, token in sorted(backend.get_added_tokens_decoder().items())])
    return result


def _continuing(step: Any) -> Any:
    """Returns a step of tokenizer.json, and those inside it, without what it does at the beginning of a text."""
    if not isinstance(step, dict):
        return step
    kind = step.get("type")
    for parts in ("normalizers", "pretokenizers"):
        if kind == "Sequence" and parts in step:
            kept = [one for one in map(_continuing, step[parts]) if one is not None]
            return step | {parts: kept}
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return step | {"prepend_scheme": "never"}
    if kind == "ByteLevel":
        return step | {"add_prefix_space": False}
    if kind == "Strip":
        return step | {"strip_left": False}
    return step
