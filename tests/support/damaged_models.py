"""Small models with damaged files: bytes flipped, files cut, numbers and texts replaced.

A damage is made from a number alone, so that a case that fails can be made again.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.pretrained import load_pretrained
from small_models import random_model

NUMBERS = (0, -1, 1, 2**31, 2**63, 1e308, 0.5, -0.0, 10**400)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    "",
    "x",
    "\n",
    [],
    ["x"],
    [[]],
    {},
    {"x": 0},
    "\ud800",
)
MOST_BYTES = 1 << 30


def make_models(directory: Path) -> dict[str, Path]:
    """Writes a Hugging Face directory and a GGUF file."""
    model = random_model("llama", num_hidden_layers=1, attention_bias=True)
    hub = directory / "hub"
    hub.mkdir()
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    save_directory(model, hub)
    config = json.loads((hub / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    config["rope_parameters"] = rope | scaling | {"original_max_position_embeddings": 64}
    (hub / "config.json").write_text(json.dumps(config))
    gguf = save_gguf(model, directory / "small.gguf")
    return {"hub": hub, "gguf": gguf}


def damage(models: dict[str, Path], directory: Path, number: int) -> tuple[Path, str]:
    """Copies a model with one or a few damages.

    Args:
        models: from `make_models`.
        directory: where to; what an earlier call left there is overwritten.
        number: which damage.

    Returns:
        The model, and what was done to it.
    """
    chance = random.Random(number)
    kinds = ("gguf", "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    kind = chance.choices(kinds, (30, 20, 25, 20, 5))[0]
    if kind == "gguf":
        path = directory / "small.gguf"
        contents, done = _damaged_bytes(chance, models["gguf"].read_bytes(), header=9000)
        path.write_bytes(contents)
        return path, f"{kind}: {done}"
    target = directory / "hub"
    target.mkdir(exist_ok=True)
    for file in models["hub"].iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    path = target / kind
    contents = path.read_bytes()
    if kind == "model.safetensors":
        contents, done = _damaged_safetensors(chance, contents)
    elif chance.random() < 0.7:
        contents, done = _damaged_json(chance, contents)
    else:
        contents, done = _damaged_bytes(chance, contents, header=len(contents))
    path.write_bytes(contents)
    return target, f"{kind}: {done}"


def _damaged_bytes(chance: random.Random, contents: bytes, header: int) -> tuple[bytes, str]:
    raw = bytearray(contents)
    header = min(header, len(raw))
    kind = chance.choice(("flip", "flip", "cut", "number", "number", "insert", "delete"))
    at = chance.randrange(header)
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 2, 8))):
            raw[chance.randrange(header)] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del raw[chance.randrange(len(raw)) if chance.random() < 0.3 else at :]
    elif kind == "number":
        width = chance.choice((1, 4, 8))
        value = chance.choice((0, -1, 1, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)))
        raw[at : at + width] = (value & (2 ** (8 * width) - 1)).to_bytes(width, "little")
    elif kind == "insert":
        raw[at:at] = chance.randbytes(chance.choice((1, 4, 8)))
    else:
        del raw[at : at + chance.choice((1, 4, 8))]
    return bytes(raw), f"{kind} at {at}"


def _damaged_safetensors(chance: random.Random, contents: bytes) -> tuple[bytes, str]:
    length = struct.unpack_from("<Q", contents)[0]
    if chance.random() < 0.5:
        return _damaged_bytes(chance, contents, header=8 + length)
    header, done = _damaged_json(chance, contents[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + contents[8 + length :], done


def _damaged_json(chance: random.Random, contents: bytes) -> tuple[bytes, str]:
    """Replaces, drops or adds one value somewhere in the object."""
    value = json.loads(contents)
    places = list(_places(value))
    holder, key, path = chance.choice(places)
    replaced = chance.choice(VALUES)
    if chance.random() < 0.15:
        del holder[key]
        done = f"{path} dropped"
    else:
        holder[key] = replaced
        done = f"{path} = {replaced!r}"[:120]
    return json.dumps(value).encode("utf-8", "surrogatepass"), done


def _places(value: Any, path: str = "") -> Any:
    """Every place in a JSON value. Of long lists and objects only the ends: else all damage were to vocabularies."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys if len(keys) <= 40 else keys[:3] + keys[-2:]:
        yield value, key, f"{path}/{key}"
        yield from _places(value[key], f"{path}/{key}")


def outcome(load: Callable[[], Any]) -> str:
    """Says whether a model loads, or is refused with a ValueError of one line; anything else is a fault.

    Raises:
        AssertionError: the error has several lines, or is of another kind.
    """
    try:
        load()
    except ValueError as error:
        text = str(error)
        assert text, "the error says nothing"
        assert text.isprintable(), f"not one printable line: {text!r}"
        assert len(text) < 2000, f"{len(text)} characters: {text[:300]}"
        return text
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return ""


def load_and_tokenise(path: Path) -> None:
    """Loads a model and tokenises a text with it, as every request does."""
    model = load_pretrained(path)
    for text in ("Hello (a) 12", " и", "<s>"):
        for continues in (False, True):
            model.tokenizer.encode(text, continues=continues)
