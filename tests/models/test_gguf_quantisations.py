"""Every quantisation that the `gguf` package can undo loads, with the values that the package gives; others are named.

If one of these fails, weights of some files are those of other rows, or a user learns of it from a traceback.
"""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from isoprefill.models.files.gguf_file import _dequantise
from isoprefill.models.files.gguf_header import TensorInfo


def can_be_undone(kind: GGMLQuantizationType) -> bool:
    _, size = GGML_QUANT_SIZES[kind]
    try:
        quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


UNDONE = [kind for kind in GGMLQuantizationType if can_be_undone(kind)]


def stored(kind: GGMLQuantizationType, shape: tuple[int, ...], tmp_path) -> tuple[dict, TensorInfo]:
    """Random blocks of a tensor, after 5 bytes of something else, as a file has them."""
    values, size = GGML_QUANT_SIZES[kind]
    num_bytes = int(np.prod(shape)) // values * size
    rng = np.random.default_rng(0)
    raw = np.concatenate([np.zeros(5, np.uint8), rng.integers(0, 256, num_bytes, dtype=np.uint8)])
    path = tmp_path / "tensor"
    raw.tofile(path)
    files = {path: np.memmap(path, np.uint8, mode="r")}
    return files, TensorInfo("t", shape, kind, path, 5, num_bytes)


@pytest.mark.parametrize("kind", UNDONE, ids=lambda kind: kind.name)
def test_values_are_the_packages_row_by_row(kind, tmp_path):
    values, _ = GGML_QUANT_SIZES[kind]
    shape = (6, 3 * values)
    files, info = stored(kind, shape, tmp_path)
    rows = np.fromfile(info.path, np.uint8)[5:].reshape(6, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # random bits may be NaN
        expected = [quants.dequantize(row[None], kind)[0] for row in rows]
        np.testing.assert_array_equal(_dequantise(files, info), np.stack(expected))


@pytest.mark.parametrize(
    "kind", sorted(set(GGMLQuantizationType) - set(UNDONE)), ids=lambda kind: kind.name
)
def test_quantisation_that_cannot_be_undone_is_named(kind, tmp_path):
    values, _ = GGML_QUANT_SIZES[kind]
    with pytest.raises(ValueError, match=f"tensor t is stored as {kind.name}, which cannot"):
        _dequantise(*stored(kind, (2, values), tmp_path))


def test_the_packages_most_used_quantisations_are_among_them():
    names = {kind.name for kind in UNDONE}
    assert names >= {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"}
    assert names >= {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS"}
