"""What an adapter_config.json of the `peft` package says of a LoRA adapter: which modules it changes, and how much.

Modules are named as in transformers, such as "model.layers.0.self_attn.q_proj". Patterns are regular expressions, as
in peft.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Other keys may be absent or off (null, false, empty): what they would switch on is not computed here.
_READ = (
    *(
        "peft_type",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "target_modules",
    ),
    *("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"),
    "init_lora_weights",
)
_WITHOUT_MEANING = (
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type"),
    *("inference_mode", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"),
    *("eva_config", "ensure_weight_tying"),
)
# Those that leave the weights below the adapter as they are.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
_ALL_LINEAR = "all-linear"
_NOT_LINEAR = ("model.embed_tokens", "lm_head", "score")
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LoraConfig:
    """The settings of an adapter.

    Attributes:
        settings: the contents of adapter_config.json.

    Raises:
        ValueError: a setting is of a wrong kind, or asks for what is not supported; names it.
    """

    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        settings = self.settings
        kind = settings.get("peft_type")
        if kind != "LORA":
            raise ValueError(f"peft_type must be LORA, got {kind!r}")
        if settings.get("bias", "none") != "none":
            raise ValueError(f"bias {settings['bias']!r} is not supported: it must be none")
        for key, value in settings.items():
            if key not in (*_READ, *_WITHOUT_MEANING) and value not in (None, False, [], {}, ""):
                raise ValueError(f"{key} is not supported in an adapter, got {value!r}"[:200])
        start = settings.get("init_lora_weights", True)
        if not any(start is one or start == one for one in _INITIALISATIONS):
            raise ValueError(
                f"init_lora_weights {start!r} is not supported: it changes the weights below the adapter"
            )
        for key in ("rank_pattern", "alpha_pattern"):
            numbers = settings.get(key) or {}
            if not isinstance(numbers, dict) or not all(map(_is_positive, numbers.values())):
                raise ValueError(f"{key} must hold positive numbers, got {numbers!r}"[:200])
        for key in ("r", "lora_alpha"):
            if not _is_positive(settings.get(key)):
                raise ValueError(f"{key} must be a positive number, got {settings.get(key)!r}")
        for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
            names = settings.get(key)
            if not isinstance(names, str | None) and not _is_list_of(names, str):
                raise ValueError(f"{key} must be a pattern or a list of names, got {names!r}"[:200])
        layers = settings.get("layers_to_transform")
        if not (layers is None or type(layers) is int or _is_list_of(layers, int)):
            raise ValueError(
                f"layers_to_transform must be a list of integers, got {layers!r}"[:200]
            )
        for pattern in self._patterns():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern {pattern!r} cannot be read: {error}") from error

    def rank(self, module: str) -> int:
        """Returns the rank of a module's change."""
        return int(self._of_pattern("rank_pattern", module, self.settings["r"]))

    def scale(self, module: str) -> float:
        """Returns the factor of a module's change: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        alpha = self._of_pattern("alpha_pattern", module, self.settings["lora_alpha"])
        rank = self.rank(module)
        return float(alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank))

    def targets(self, module: str) -> bool | None:
        """Returns whether the adapter is to change a linear module; None if the settings do not tell."""
        targets, settings = self.settings.get("target_modules"), self.settings
        if targets is None:
            return None
        saved = settings.get("modules_to_save") or ()
        if _is_among(settings.get("exclude_modules") or (), module) or _is_among(saved, module):
            return False
        if isinstance(targets, str):
            if targets.lower() == _ALL_LINEAR:
                return module not in _NOT_LINEAR
            return re.fullmatch(targets, module) is not None
        return _is_among(targets, module) and self._has_layer_of(module)

    def _has_layer_of(self, module: str) -> bool:
        layers = self.settings.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        names = self.settings.get("layers_pattern") or ()
        names = [names] if isinstance(names, str) else names
        patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in names] or [_LAYER.pattern]
        matches = [match for pattern in patterns if (match := re.match(pattern, module))]
        chosen = [layers] if isinstance(layers, int) else layers
        return bool(matches) and int(matches[0][1]) in chosen

    def _of_pattern(self, key: str, module: str, default: float) -> float:
        """Returns the number of the first pattern that is the end of the module's name."""
        for pattern, number in (self.settings.get(key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(number)
        return default

    def _patterns(self) -> Iterable[str]:
        for key in ("rank_pattern", "alpha_pattern"):
            yield from self.settings.get(key) or ()
        for key in ("target_modules", "exclude_modules"):
            if isinstance(names := self.settings.get(key), str):
                yield names
        names = self.settings.get("layers_pattern") or ()
        yield from [names] if isinstance(names, str) else names


def _is_among(names: Any, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9


def _is_list_of(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)
