"""How an engine is made: the settings that `score`, `serve` and `batch` have in common. Imports no jax."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from isoprefill.modes import AlgorithmChoice, Backend
from isoprefill.settings import check_bounds, setting

if TYPE_CHECKING:
    from isoprefill.execution.engine import ScoringEngine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine is made, and its algorithm. Each field is also a flag."""

    model: str = setting(
        "smollm2-135m",
        "A pinned model's name, a .gguf file, a directory with safetensors, or ORG/NAME[@REVISION] of a model in "
        "the Hugging Face Hub's local cache.",
    )
    adapter: str | None = setting(
        None, "LoRA adapter to add to the weights: a directory of the peft package, or ORG/NAME."
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "Type of the weights.")
    algorithm: AlgorithmChoice = setting(
        "auto",
        "How to compute the scores (docs/scoring.md); what auto chooses, and why, is logged.",
    )
    attention: Backend = setting("auto", "Attention back end.")
    prefix_cache_bytes: int | None = setting(
        None,
        "Maximum bytes of keys and values of queries to cache for reuse; 0 disables the cache. Default: 512 MiB.",
        ge=0,
    )
    threads: int | None = setting(
        None,
        "Threads that compute on a CPU. Default: ISOPREFILL_THREADS, or as many as the process may use.",
        ge=1,
        le=4096,
    )
    mesh: str | None = setting(
        None, "Devices to distribute the work over, such as data=2,tensor=3. Default: one device."
    )

    def __post_init__(self) -> None:
        check_bounds(self)

    def load(self) -> "ScoringEngine":
        """Loads the model. Imports jax.

        Raises:
            ValueError: the model or a setting is not supported; says what.
            FetchError: a pinned model could not be fetched.
        """
        from isoprefill.execution.engine import ScoringEngine
        from isoprefill.execution.mesh import MeshShape

        return ScoringEngine.from_pretrained(
            self.model,
            self.dtype,
            self.adapter,
            threads=self.threads,
            attention=self.attention,
            mesh=None if self.mesh is None else MeshShape.parse(self.mesh),
            prefix_cache_bytes=self.prefix_cache_bytes,
        )
