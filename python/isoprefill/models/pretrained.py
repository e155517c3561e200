"""Loads a whole model: configuration, weights and tokenizer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.files.damage import refusing_damage
from isoprefill.models.files.gguf_file import load_gguf
from isoprefill.models.files.lora import read_adapter
from isoprefill.models.files.safetensors_files import load_safetensors
from isoprefill.models.sources.source import ModelSource, find_adapter, find_model
from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.models.tokenizers.tokenizer_gguf import tokenizer_from_gguf
from isoprefill.models.tokenizers.tokenizer_json import tokenizer_from_directory
from isoprefill.models.weights.assembly import ParamsDtype, WeightBytes
from isoprefill.models.weights.params import Params
from isoprefill.modes import check_choice


@dataclasses.dataclass(frozen=True, slots=True)
class Pretrained:
    """A model that is ready to use.

    Attributes:
        name: what to call it in answers.
        config: sizes and switches.
        params: weights, on JAX's default device.
        tokenizer: text to token ids.
        path: the file or the directory that it was loaded from; None if it was made otherwise.
    """

    name: str
    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    path: Path | None = None


def load_pretrained(
    source: str | Path | ModelSource,
    dtype: ParamsDtype = "float32",
    adapter: str | Path | None = None,
    check_memory: Callable[[WeightBytes], None] | None = None,
) -> Pretrained:
    """Loads a model. No code that comes with a model is ever run.

    Args:
        source: a pinned name ("smollm2-135m"), a .gguf file, a Hugging Face directory with safetensors, or a name on
            the Hub that lies in its local cache; or what `find_model` made of one of these.
        dtype: dtype of the parameters and of the residual stream, "float32" or "bfloat16".
        adapter: a LoRA adapter to add to the weights: a directory of the `peft` package, or a name as for `source`.
        check_memory: is told what the weights will take before there is memory for them, and may raise.

    Raises:
        ValueError: there is no such model, it is of an unsupported kind, or it is incomplete; says what, in one line.
        pinned.FetchError: a pinned model could not be fetched.
    """
    check_choice("dtype", dtype, ParamsDtype)
    found = find_model(source)
    lora = None
    if adapter is not None:
        path = find_adapter(adapter)
        with refusing_damage(path):
            lora = read_adapter(path)
    with refusing_damage(found.path):
        if found.kind == "gguf":
            header = found.gguf_header
            tokenizer = tokenizer_from_gguf(header.metadata)
            config, params = load_gguf(header, dtype, lora, check_memory)
        else:
            tokenizer = tokenizer_from_directory(found.path)
            config, params = load_safetensors(found.path, dtype, lora, check_memory)
    # The tokenizer may know more tokens than the weights; a request that uses one of them is refused.
    if tokenizer.adds_bos and (tokenizer.bos_id or 0) >= config.vocab_size:
        raise ValueError(
            f"model {found.name}: every text begins with token {tokenizer.bos_id}, "
            f"but the weights have {config.vocab_size} tokens"
        )
    return Pretrained(found.name, config, params, tokenizer, found.path)
