"""LoRA adapters, as the `peft` package saves them, added to a model's weights when it is loaded.

W + scale * B A, with A [r, K] and B [N, r] for a weight W [N, K], in float32; then the sum is stored in the dtype of
the weights. A merged model scores as fast as without an adapter.
"""

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from isoprefill.models.files.checkpoint import Checkpoint, LazyTensor
from isoprefill.models.files.json_file import read_json_object
from isoprefill.models.files.lora_config import LoraConfig
from isoprefill.models.files.safetensors_checkpoint import open_safetensors

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": ("A", False),
    ".lora_B.weight": ("B", False),
    ".lora_embedding_A": ("A", True),
    ".lora_embedding_B": ("B", True),
}
_BELOW_FACTORS = ".base_layer.weight"
# Of mixtures: adapters leave them alone whatever their settings name, as they are no linear modules of transformers 5.
_EXPERTS = re.compile(r"\.experts\b|_exps\b")
_ROUTERS = (".mlp.gate", ".mlp.router", ".block_sparse_moe.gate")
_EMBEDDING_MODULE = "model.embed_tokens"
_EMBEDDING, _HEAD = f"{_EMBEDDING_MODULE}.weight", "lm_head.weight"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """A module's change: B A, or of an embedding [V, E] its transpose (A [r, V], B [E, r])."""

    a: Float[np.ndarray, "r K"]
    b: Float[np.ndarray, "N r"]
    transposed: bool
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        shape = self.b.shape[0], self.a.shape[1]
        return shape[::-1] if self.transposed else shape

    def added_to(self, weight: np.ndarray) -> Float[np.ndarray, "N K"]:
        """Returns the weight with the change, in float32."""
        change = np.float32(self.scale) * (self.b @ self.a)
        return np.asarray(weight, np.float32) + (change.T if self.transposed else change)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """An adapter in memory; it is small.

    Attributes:
        path: its directory.
        config: its settings.
        factors: of each module that it changes.
        saved: tensors that take the place of the model's.
    """

    path: Path
    config: LoraConfig
    factors: dict[str, _Factors]
    saved: dict[str, np.ndarray]

    def merged_into(self, checkpoint: Checkpoint) -> Checkpoint:
        """Returns the model's tensors with the adapter's changes.

        Args:
            checkpoint: the model's tensors, by transformers' names.

        Raises:
            ValueError: the adapter is not for such a model; names what does not fit.
        """
        tensors = dict(checkpoint)
        for name, values in self.saved.items():
            if name in checkpoint and checkpoint[name].shape != values.shape:
                raise ValueError(
                    f"{self.path} replaces {name} by {list(values.shape)}, but the model's is "
                    f"{list(checkpoint[name].shape)}"
                )
            tensors[name] = LazyTensor(values.shape, _Constant(values))
        for module, factors in self.factors.items():
            if _EXPERTS.search(module):
                raise ValueError(
                    f"{self.path} changes {module}: adapters of experts are not supported"
                )
            name = f"{module}.weight"
            if name not in tensors:
                raise ValueError(
                    f"{self.path} changes {module}, but the model has no tensor {name}"
                )
            base = tensors[name]
            if base.shape != factors.shape:
                raise ValueError(
                    f"{self.path} changes {module} as a matrix {list(factors.shape)}, but the model's is "
                    f"{list(base.shape)}"
                )
            if self.config.targets(module) is False:
                raise ValueError(
                    f"{self.path} has tensors for {module}, but its {_CONFIG} does not name it"
                )
            tensors[name] = LazyTensor(base.shape, _Merged(base, factors))
        for name, tensor in checkpoint.items():
            module = name.removesuffix(".weight")
            if len(tensor.shape) != 2 or module == name or module in self.factors:
                continue
            if _EXPERTS.search(module) or module.endswith(_ROUTERS):
                continue
            if self.config.targets(module):
                raise ValueError(
                    f"{self.path} has no tensors for {module}, which its {_CONFIG} names"
                )
        changes_embedding = _EMBEDDING in self.saved or _EMBEDDING_MODULE in self.factors
        if changes_embedding and _HEAD not in tensors:
            raise ValueError(
                f"{self.path} changes the embedding, which is the model's head too: merged and unmerged, these are two "
                "different models"
            )
        return tensors


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    base: LazyTensor
    factors: _Factors

    def __call__(self) -> np.ndarray:
        return self.factors.added_to(self.base.read())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Constant:
    values: np.ndarray

    def __call__(self) -> np.ndarray:
        return self.values


def read_adapter(path: Path) -> LoraAdapter:
    """Reads an adapter from its directory.

    Raises:
        ValueError: it is incomplete, damaged, or of a kind that is not supported; says what.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(f"{path} is no adapter of the peft package: it has no {name}")
    try:
        config = LoraConfig(read_json_object(path / _CONFIG))
    except ValueError as error:
        raise ValueError(f"{path / _CONFIG}: {error}") from error
    pairs: dict[str, dict[str, LazyTensor]] = {}
    transposed: dict[str, bool] = {}
    saved: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as files:
        for name, tensor in open_safetensors([path / _WEIGHTS], files).items():
            ending = next((end for end in _FACTORS if name.endswith(end)), None)
            # Of an embedding that has factors, peft also saves the weight below them.
            own_name = name.removeprefix(_PREFIX).replace(_BELOW_FACTORS, ".weight")
            if ending is not None and name.startswith(_PREFIX):
                module = own_name.removesuffix(ending)
                factor, transposed[module] = _FACTORS[ending]
                pairs.setdefault(module, {})[factor] = tensor
            elif name.startswith(_PREFIX) and _is_saved(config, own_name):
                saved[own_name] = tensor.read()
            else:
                raise ValueError(f"{path}: tensor {name} is not supported in an adapter")
        factors = {
            module: _factors(path, config, module, pair, transposed[module])
            for module, pair in pairs.items()
        }
    if not factors and not saved:
        raise ValueError(f"{path} has no tensors")
    return LoraAdapter(path, config, factors, saved)


def _is_saved(config: LoraConfig, name: str) -> bool:
    """Whether a tensor may take the place of the model's: it is of `modules_to_save`, or an embedding or a head."""
    module = name.rpartition(".")[0]
    listed = config.settings.get("modules_to_save") or ()
    listed = [listed] if isinstance(listed, str) else listed
    return name in (_EMBEDDING, _HEAD) or any(
        module == one or module.endswith(f".{one}") for one in listed
    )


def _factors(
    path: Path, config: LoraConfig, module: str, pair: dict[str, LazyTensor], transposed: bool
) -> _Factors:
    if pair.keys() != {"A", "B"}:
        raise ValueError(f"{path} has only one of two factors for {module}")
    a, b = pair["A"].shape, pair["B"].shape
    rank = config.rank(module)
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise ValueError(
            f"{path}: the factors of {module} must be [{rank}, K] and [N, {rank}], as {_CONFIG} says, "
            f"got {list(a)} and {list(b)}"
        )
    values_a, values_b = (np.asarray(pair[factor].read(), np.float32) for factor in ("A", "B"))
    return _Factors(values_a, values_b, transposed, config.scale(module))
