"""Weights that are not finite are refused, naming the tensor and the place.

If one of these fails, a damaged file gives NaN scores, or wrong ones where a softmax hides the NaN.
"""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gguf_writer import save_gguf
from huggingface_directory import save_directory
from isoprefill.models.files.finite import check_finite
from isoprefill.models.pretrained import load_pretrained
from model_refusals import assert_refused
from small_models import random_model

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (299, 499), (150, 7)])
def test_one_value_among_many_is_found(dtype, value, place):
    """In any piece of a large tensor."""
    values = np.zeros((300, 500), dtype)
    assert check_finite("t", values, "float32") is values
    values[place] = value
    with pytest.raises(ValueError, match=rf"tensor t .*{abs(value)} at \[{place[0]}, {place[1]}\]"):
        check_finite("t", values, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_finite_number_passes(dtype):
    largest = ml_dtypes.finfo(dtype).max
    values = np.array([largest, -largest, 0, -0.0, ml_dtypes.finfo(dtype).tiny], dtype)
    check_finite("t", values, "float32")


def test_a_number_that_bfloat16_lacks_is_refused_for_bfloat16_only():
    largest = np.float32(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    # Half way to the next power of two and beyond rounds to infinity.
    too_large = np.array([3.3961776e38], np.float32)
    assert np.isinf(too_large.astype(ml_dtypes.bfloat16))
    below = np.nextafter(too_large, np.float32(0))
    assert np.isfinite(below.astype(ml_dtypes.bfloat16))
    check_finite("t", too_large, "float32")
    check_finite("t", np.append(below, largest), "bfloat16")
    with pytest.raises(ValueError, match="must be finite in bfloat16"):
        check_finite("t", too_large, "bfloat16")


def test_other_floating_dtypes_become_float32():
    wide = check_finite("t", np.array([1.5, 2.0]), "float32")
    assert (wide.dtype, wide.tolist()) == (np.float32, [1.5, 2.0])
    with pytest.raises(ValueError, match="inf at"):
        check_finite("t", np.array([1e300]), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_damaged_model_is_refused(tmp_path, dtype):
    oracle = random_model("llama", num_hidden_layers=2)
    name = "model.layers.1.mlp.down_proj.weight"
    oracle.state_dict()[name][3, 5] = float("nan")
    directory = save_directory(oracle, tmp_path)
    assert_refused(directory, rf"tensor {name} must be finite .* nan at \[3, 5\]", dtype=dtype)
    path = save_gguf(oracle, tmp_path / "small.gguf")
    assert_refused(path, r"tensor blk\.1\.ffn_down\.weight .* nan at \[3, 5\]", dtype=dtype)


def test_float16_weights_load(tmp_path):
    """The same numbers as float32, if they fit."""
    directory = save_directory(random_model("qwen2", num_hidden_layers=1), tmp_path)
    path = directory / "model.safetensors"
    halves = {name: v.astype(np.float16) for name, v in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(halves, path)
    from_halves = load_pretrained(directory)
    safetensors.numpy.save_file({n: v.astype(np.float32) for n, v in halves.items()}, path)
    expected = load_pretrained(directory)
    for ours, theirs in zip(from_halves.params.layers, expected.params.layers, strict=True):
        if ours is not None:
            np.testing.assert_array_equal(
                getattr(ours, "data", ours), getattr(theirs, "data", theirs)
            )
    assert json.loads((directory / "config.json").read_text())["model_type"] == "qwen2"
