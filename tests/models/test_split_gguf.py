"""A GGUF model in several files is the model in one, from whichever of them it is loaded.

If one of these fails, tensors of the other files are taken from elsewhere or not at all, and scores are wrong silently.
"""

from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import torch

from gguf_writer import save_gguf
from isoprefill.models.files.gguf_header import read_header
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.sources.source import load_tokenizer
from model_refusals import assert_refused
from small_models import random_model


@pytest.fixture(scope="module")
def oracle() -> torch.nn.Module:
    return random_model("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def whole(oracle, tmp_path_factory) -> Path:
    return save_gguf(oracle, tmp_path_factory.mktemp("whole") / "small.gguf")


def split(whole: Path, directory: Path, count: int = 3, **changes: dict[str, object]) -> list[Path]:
    """Writes a model as llama.cpp splits it: all metadata in the first file, and `output.weight` in the last.

    Args:
        whole: the model in one file.
        directory: where to write.
        count: of files.
        **changes: by "file0" and so on, other values of its split keys.
    """
    reader = gguf.GGUFReader(whole)
    tensors = sorted(reader.tensors, key=lambda tensor: tensor.name == "output.weight")
    paths = []
    for number in range(count):
        path = directory / f"small-{number + 1:05}-of-{count:05}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        keys = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
        keys |= changes.get(f"file{number}", {})
        for key, value in keys.items():
            writer.add_uint16(key, value)
        if number == 0:
            for name, field in reader.fields.items():
                if not name.startswith("GGUF.") and name != "general.architecture":
                    kind = field.types[-1] if len(field.types) > 1 else None
                    writer.add_key_value(name, field.contents(), field.types[0], kind)
        for tensor in np.array_split(np.array(tensors, object), count)[number]:
            tensor = gguf.gguf_reader.ReaderTensor(*tensor)
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def test_every_file_of_a_split_model_gives_the_whole(whole, tmp_path):
    expected = load_pretrained(whole)
    for path in split(whole, tmp_path):
        found = load_pretrained(path)
        assert found.config == expected.config
        assert not found.config.tied_head, "output.weight is in the last file"
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
        assert load_tokenizer(path).encode("a b") == expected.tokenizer.encode("a b")


def test_missing_file_is_named(whole, tmp_path):
    first, second, _ = split(whole, tmp_path)
    second.unlink()
    assert_refused(first, r"split, and its file .*small-00002-of-00003\.gguf is missing")


def test_renamed_file_is_refused(whole, tmp_path):
    """Its companions cannot be found, and what it holds is not the model."""
    first, *_ = split(whole, tmp_path)
    renamed = first.rename(tmp_path / "small.gguf")
    assert_refused(renamed, r"one of 3 files .* its name must end in -00001-of-00003\.gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file1": {"split.no": 2}}, r"00002-of-00003\.gguf must have split\.no 1, got 2"),
        ({"file2": {"split.count": 4}}, r"00003-of-00003\.gguf must have split\.count 3, got 4"),
        ({"file0": {"split.tensors.count": 99}}, r"must have 99 tensors, got 2\d"),
    ],
)
def test_files_of_another_model_are_refused(whole, tmp_path, changes, message):
    first, *_ = split(whole, tmp_path, **changes)
    assert_refused(first, message)


def test_tensor_in_two_files_is_refused(whole, tmp_path):
    first, second, third = split(whole, tmp_path)
    raw = second.read_bytes()
    at = raw.index(b"split.no") + len("split.no") + 4
    third.write_bytes(raw[:at] + (2).to_bytes(2, "little") + raw[at + 2 :])
    repeated = min(read_header(second).tensors)
    assert_refused(first, rf"has tensor {repeated}, which an earlier file has too")


def test_a_model_in_one_file_may_say_so(oracle, tmp_path):
    extra = {"split.count": 1, "split.no": 0}
    load_pretrained(save_gguf(oracle, tmp_path / "small.gguf", extra_metadata=extra))
