"""The tables of parameters and architectures are complete, and every row is compared with transformers.

If one of these fails, a row can be wrong and no test of parity sees it.
"""

import typing

import pytest

from isoprefill.models.config.architectures import ARCHITECTURES
from isoprefill.models.config.config_huggingface import config_from_huggingface
from isoprefill.models.config.parameters import PARAMETERS, parameters_of
from isoprefill.models.weights.packed_weights import PackedWeights
from isoprefill.models.weights.params import LayerParams, Params
from isoprefill.models.weights.stored_tensors import FileFormat, stored_tensors
from model_variants import GGUF_VARIANTS, VARIANTS
from small_models import small_config

FIELDS = typing.get_type_hints(LayerParams) | typing.get_type_hints(Params)
del FIELDS["layers"]


def test_every_field_has_a_row():
    assert set(PARAMETERS) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_row_says_what_the_decoder_reads(field):
    """The axes of the annotation; a parameter that may be None depends on a switch, and only such a one."""
    hint, parameter = FIELDS[field], PARAMETERS[field]
    array, *others = typing.get_args(hint) or [hint]
    assert parameter.axes == array.dim_str
    assert (PackedWeights in others) == parameter.is_matrix
    assert (type(None) in others) == bool(parameter.only_if)


@pytest.mark.parametrize("file_format", typing.get_args(FileFormat))
@pytest.mark.parametrize(("family", "overrides"), VARIANTS.values(), ids=VARIANTS.keys())
def test_tensors_are_read_once(family, overrides, file_format):
    """Else two parameters of a model would be read from the same rows of one tensor."""
    config = config_from_huggingface(small_config(family, **overrides).to_dict())
    stored = stored_tensors(config, file_format)
    assert len({(source.name, str(source.rows)) for source in stored.values()}) == len(stored)
    for field, source in stored.items():
        assert ("{layer}" in source.name) == PARAMETERS[field].stacked


@pytest.mark.parametrize("variants", [VARIANTS, GGUF_VARIANTS], ids=["directory", "gguf"])
def test_every_row_is_compared_with_transformers(variants):
    """test_family_logits and test_gguf_weights run these variants, tests/engine/test_class_scores heads of classes."""
    assert {family for family, _ in variants.values()} == set(ARCHITECTURES)
    configs = [
        config_from_huggingface(small_config(family, **overrides).to_dict())
        for family, overrides in variants.values()
    ]
    heads = {"class_head", "class_bias"}
    assert set().union(*map(parameters_of, configs)) | heads == set(PARAMETERS)
