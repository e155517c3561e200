"""Every quantisation that the `gguf` package can undo loads, with the values that the package gives; others are named.

If one of these fails, weights of some files are those of other rows, or a user learns of it from a traceback.
"""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

import isoprefill_csrc
from gguf_writer import save_gguf
from isoprefill import ScoringEngine
from isoprefill.models.files.gguf_file import _dequantise
from isoprefill.models.files.gguf_header import TensorInfo
from isoprefill.models.files.gguf_integers import READERS, scaled_integers
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights import assembly
from isoprefill.models.weights import scaled_integers as scaled_weights
from isoprefill.models.weights.packed_weights import SCALED_INTEGERS, unpack
from small_models import random_model


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


def finite_blocks(kind: GGMLQuantizationType, rows: int, length: int) -> np.ndarray:
    """Random bytes of rows; the float16 of each block, one or two, are below 2."""
    values, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    blocks = rng.integers(0, 256, (rows * length // values, size), dtype=np.uint8)
    halves = {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(kind.name, [0, 2])
    for begin in halves:
        blocks[:, begin + 1] &= 0xBF  # of the sign, the exponent and two bits
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_integers_and_scales_are_the_packages_values_bit_for_bit(kind):
    rows = finite_blocks(kind, 6, 768)
    expected = quants.dequantize(rows, kind)
    assert np.isfinite(expected).all()
    _, size = GGML_QUANT_SIZES[kind]
    one = scaled_integers(rows.reshape(-1, size), kind, (6, 768))
    np.testing.assert_array_equal(one.values(), expected)
    assert one.is_finite()


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_float32_keeps_integers_of_which_a_cpu_makes_the_same_weights(kind, tmp_path, monkeypatch):
    """And q and k, whose rows a GGUF file has in another order, too; what is not stored so is kept as floats."""
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: True)
    oracle = random_model("llama", hidden_size=256, intermediate_size=48, head_dim=32)
    shapes = {name: tuple(one.shape) for name, one in oracle.state_dict().items()}
    names = {
        "blk.0.ffn_gate.weight": "mlp.gate_proj",
        "blk.0.ffn_up.weight": "mlp.up_proj",
        "blk.0.attn_q.weight": "self_attn.q_proj",
        "blk.0.attn_k.weight": "self_attn.k_proj",
        "blk.0.attn_v.weight": "self_attn.v_proj",
    }
    layers = oracle.config.num_hidden_layers
    packed, floats = {}, {}
    for name, module in names.items():
        for layer in range(layers):
            rows, length = shapes[f"model.layers.{layer}.{module}.weight"]
            blocks = finite_blocks(kind, rows, length)
            packed[name.replace("blk.0", f"blk.{layer}")] = (blocks, kind)
            floats[name.replace("blk.0", f"blk.{layer}")] = quants.dequantize(blocks, kind)
    kept = load_pretrained(save_gguf(oracle, tmp_path / "kept.gguf", packed=packed)).params.layers
    wide = load_pretrained(
        save_gguf(oracle, tmp_path / "wide.gguf", extra_tensors=floats)
    ).params.layers
    assert kept.gate.parts == kept.up.parts == kept.query.parts == SCALED_INTEGERS
    assert kept.down.parts != SCALED_INTEGERS
    for field in ("gate", "up", "query", "key", "value", "down"):
        np.testing.assert_array_equal(unpack(getattr(kept, field)), unpack(getattr(wide, field)))


@pytest.mark.parametrize("tiles", [False, True])
def test_tiles_have_floats_if_these_fit_into_half_of_the_memory(tiles, monkeypatch):
    monkeypatch.setattr(isoprefill_csrc, "multiplies_parts", lambda: tiles)
    half = scaled_weights.host_bytes() // 2
    monkeypatch.setattr(scaled_weights, "address_space_left", lambda: None)
    assert scaled_weights.keeps_integers(half + 1)
    assert scaled_weights.keeps_integers(half) != tiles
    monkeypatch.setattr(scaled_weights, "address_space_left", lambda: half)
    assert scaled_weights.keeps_integers(half)
    assert scaled_weights.keeps_integers(half // 2) != tiles


def test_scores_are_the_same_to_the_bit_if_integers_are_kept(monkeypatch):
    """On few rows and on many, which are computed in other ways."""
    items = [" Paris", *([" a city on the river"] * 90)]
    scores = []
    for keeps in (True, False):
        monkeypatch.setattr(assembly, "keeps_integers", lambda _, keeps=keeps: keeps)
        engine = ScoringEngine.from_pretrained("smollm2-135m")
        scores.append(
            [engine.score("The capital is", some).logprobs for some in (items[:1], items)]
        )
    for one, other in zip(*scores, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_scale_that_is_not_finite_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "keeps_integers", lambda _: True)
    kind = GGMLQuantizationType.Q8_0
    oracle = random_model("llama", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    blocks = finite_blocks(kind, 256, 256)
    blocks[3, 34:36] = 0, 0x7C  # infinity, in the second block of the row
    path = save_gguf(oracle, tmp_path / "a.gguf", packed={"blk.0.ffn_down.weight": (blocks, kind)})
    with pytest.raises(ValueError, match=r"blk\.0\.ffn_down\.weight must be finite .* at \[3, 3"):
        load_pretrained(path)
