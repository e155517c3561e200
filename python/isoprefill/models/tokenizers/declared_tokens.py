"""Tokens that a Hugging Face directory names outside tokenizer.json, as transformers 5 adds them.

`added_tokens_decoder` of tokenizer_config.json has tokens by id; older directories have added_tokens.json instead.
Names such as `pad_token` may be of tokens that there are nowhere else: these get the next ids.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from isoprefill.models.files.json_file import read_json_object

_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_SWITCHES = ("single_word", "lstrip", "rstrip", "normalized")


def add_declared_tokens(
    backend: tokenizers.Tokenizer, directory: Path, config: Mapping[str, Any]
) -> None:
    """Adds the tokens that tokenizer.json lacks.

    Args:
        backend: made of tokenizer.json; changed.
        directory: the model's.
        config: the contents of tokenizer_config.json.

    Raises:
        ValueError: a token is described in a way that makes no sense, or would get another id than it should have.
    """
    with_ids = _with_ids(directory, config)
    declared: list[tuple[tokenizers.AddedToken, int | None]] = [
        (with_ids[token_id], token_id) for token_id in sorted(with_ids)
    ]
    declared += [(token, None) for token in _named(config)]
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token, token_id in declared:
        if token.content in known or not token.content:
            continue
        known.add(token.content)
        backend.add_tokens([token])
        if token_id is not None and (got := backend.token_to_id(token.content)) != token_id:
            raise ValueError(
                f"tokenizer_config.json gives the token {token.content!r} the id {token_id}, but after "
                f"tokenizer.json it has the id {got}"
            )


def _with_ids(directory: Path, config: Mapping[str, Any]) -> dict[int, tokenizers.AddedToken]:
    described = config.get("added_tokens_decoder")
    if described is not None:
        if not isinstance(described, dict) or not all(key.isdecimal() for key in described):
            raise ValueError("added_tokens_decoder must hold tokens by their ids")
        return {
            int(key): _token(f"added_tokens_decoder[{key!r}]", one)
            for key, one in described.items()
        }
    path = directory / "added_tokens.json"
    if not path.is_file():
        return {}
    ids = read_json_object(path)
    if not all(type(one) is int and one >= 0 for one in ids.values()):
        raise ValueError(f"{path} must hold ids by their tokens")
    return {
        token_id: tokenizers.AddedToken(content, special=False) for content, token_id in ids.items()
    }


def _named(config: Mapping[str, Any]) -> Iterator[tokenizers.AddedToken]:
    """The special tokens that the configuration names."""
    named = [(name, config.get(name)) for name in _NAMES]
    for name in _LISTS:
        several = config.get(name) or []
        several = several.values() if isinstance(several, dict) else several
        if not isinstance(several, list | type({}.values())):
            raise ValueError(f"{name} must hold tokens, got {several!r}")
        named += [(name, one) for one in several]
    for name, one in named:
        if one is not None:
            yield _token(name, one, special=True)


def _token(name: str, described: Any, *, special: bool = False) -> tokenizers.AddedToken:
    """Returns a token that is described as text, or as an object with its content and switches."""
    if isinstance(described, str):
        return tokenizers.AddedToken(described, special=special, normalized=not special)
    content = described.get("content") if isinstance(described, dict) else None
    if not isinstance(content, str):
        raise ValueError(f"{name} must be a token, got {described!r}"[:200])
    special = special or described.get("special") is True
    switches = {name: described[name] is True for name in _SWITCHES if name in described}
    return tokenizers.AddedToken(content, special=special, **switches)
