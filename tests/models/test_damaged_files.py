"""A damaged file is refused with a ValueError of one line, soon and without much memory, or the model loads.

If one of these fails, a user gets a traceback that names nothing they know, or a flipped bit takes the machine down.
`full_damaged_files` tries 2,000 damages, and this target 200 of them.
"""

import json
import os
import resource
import time
from pathlib import Path

import gguf
import pytest

from byte_level_tokenizer import byte_tokenizer
from damaged_models import MOST_BYTES, damage, load_and_tokenise, make_models, outcome
from isoprefill.models.sources.source import load_tokenizer
from pairwise import FULL

NUMBER = 2_000 if FULL in os.environ else 200
AT_ONCE = 50
# Of processor time. A second is the aim; a busy machine must not fail the test.
MOST_SECONDS = 5.0


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory) -> dict[str, Path]:
    models = make_models(tmp_path_factory.mktemp("models"))
    for path in models.values():
        load_and_tokenise(path)
    return models


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("first", range(0, NUMBER, AT_ONCE))
def test_damage_is_refused_in_one_line(undamaged, tmp_path, first):
    outcomes = set()
    for number in range(first, first + AT_ONCE):
        path, done = damage(undamaged, tmp_path, number)
        memory, begin = peak_bytes(), time.process_time()
        try:
            outcomes.add(outcome(lambda path=path: load_and_tokenise(path)))
        except AssertionError as error:
            pytest.fail(f"damage {number} ({done}): {error}")
        assert time.process_time() - begin < MOST_SECONDS, (number, done)
        assert peak_bytes() - memory < MOST_BYTES, (number, done)
    assert len(outcomes) > 5, "the damages are no damages"


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "num_attention_heads", 0, "num_attention_heads must be from 1 to"),
        ("config.json", "num_hidden_layers", 2**63, "num_hidden_layers must be from 1 to 10000"),
        ("config.json", "head_dim", 2**40, "head_dim must be from 0 to 65536"),
        ("config.json", "hidden_size", [64], "hidden_size must be a number"),
        ("config.json", "max_position_embeddings", "x" * 9, "max_position_embeddings must be"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(undamaged, tmp_path, file, key, value, message):
    for source in undamaged["hub"].iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    contents = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(contents | {key: value}))
    with pytest.raises(ValueError, match=message):
        load_and_tokenise(tmp_path)


@pytest.mark.parametrize("value", [0, 3.5, "x"])
def test_an_alignment_that_makes_no_sense_is_named(undamaged, tmp_path, value):
    """Zero was a division by zero."""
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
    add("general.alignment", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"general\.alignment must be a positive integer"):
        load_and_tokenise(path)


def test_json_nested_too_deeply_is_refused(undamaged, tmp_path):
    (tmp_path / "config.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    (tmp_path / "tokenizer.json").write_bytes((undamaged["hub"] / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match=r"config\.json cannot be read") as raised:
        load_and_tokenise(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_token_id_that_is_no_index_is_refused(tmp_path):
    """As an int32 it would overflow in the middle of a request."""
    backend = byte_tokenizer()
    described = json.loads(backend.to_str())
    described["model"]["vocab"]["!"] = 2**32 - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: token ids must be less than .* 4294967295"
    ):
        load_tokenizer(tmp_path)
