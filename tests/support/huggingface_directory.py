"""Saves random models as Hugging Face directories."""

import json
from pathlib import Path

import torch

from byte_level_tokenizer import byte_tokenizer


def save_directory(
    model: torch.nn.Module,
    directory: Path,
    max_shard_size: str = "1GB",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Saves a model and its tokenizer as a Hugging Face directory; returns the directory.

    With a narrower dtype the model's own parameters are rounded too, so that it stays the oracle.
    """
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    stored = {
        name: parameter.to(dtype)
        for name, parameter in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    model.save_pretrained(directory, state_dict=stored, max_shard_size=max_shard_size)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer_config = {"bos_token": "<s>", "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory
