"""The classes of a model with a classification head instead of a language-model head. Does not import jax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

MOST_CLASSES = 1 << 16
_ARCHITECTURE = "ForSequenceClassification"
_PROBLEMS = (
    None,
    "regression",
    "single_label_classification",
    "multi_label_classification",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Classes:
    """What a classification head tells apart.

    Attributes:
        names: of each class, in the order of the head's rows.
        independent: each class has a probability of its own (transformers' `multi_label_classification`).

    Raises:
        ValueError: there are no names, or too many; says how many.
    """

    names: tuple[str, ...]
    independent: bool = False

    def __post_init__(self) -> None:
        _check_number("the number of class names", len(self.names))

    @property
    def use_sigmoid(self) -> bool:
        """Whether a probability is the sigmoid of one logit: a softmax over one class would always be 1."""
        return self.independent or len(self.names) == 1

    @property
    def relevant(self) -> int | None:
        """Which class says that an item is relevant; None: there are more than two, so nobody knows.

        The only one; of two the one that is named yes, as llama.cpp's rerankers name theirs, else the second.
        """
        number = len(self.names)
        if number > 2:
            return None
        yes = [index for index, name in enumerate(self.names) if name.lower() == "yes"]
        return yes[0] if yes else number - 1


def classes_from_huggingface(config: Mapping[str, Any]) -> Classes | None:
    """Returns the classes that a config.json names; None unless the model is a `…ForSequenceClassification`.

    transformers leaves out of the file what is its default: two classes, LABEL_0 and LABEL_1.

    Raises:
        ValueError: `id2label`, `num_labels` or `problem_type` is not what transformers writes; says what.
    """
    architectures = config.get("architectures") or ()
    if not any(isinstance(one, str) and one.endswith(_ARCHITECTURE) for one in architectures):
        return None
    problem = config.get("problem_type")
    if problem not in _PROBLEMS:
        raise ValueError(f"problem_type must be one of {_PROBLEMS}, got {problem!r}")
    names = config.get("id2label")
    if names is not None and not isinstance(names, Mapping):
        raise ValueError(f"id2label must be an object, got {names!r:.200}")
    number = config.get("num_labels")
    if number is None:
        number = 2 if names is None else len(names)
    _check_number("num_labels", number)
    if names is None:
        names = {str(index): _unnamed(index) for index in range(number)}
    keys = [str(index) for index in range(number)]
    if set(map(str, names)) != set(keys):
        raise ValueError(f"id2label must name each of the {number} classes 0 to {number - 1} once")
    by_key = {str(key): str(name) for key, name in names.items()}
    return Classes(tuple(by_key[key] for key in keys), problem == "multi_label_classification")


def classes_from_gguf(metadata: Mapping[str, Any], number: int) -> Classes:
    """Returns the classes of a GGUF file whose head has so many rows.

    Raises:
        ValueError: the file names another number of them.
    """
    _check_number("the classes of the classification head", number)
    key = f"{metadata.get('general.architecture')}.classifier.output_labels"
    names = metadata.get(key)
    if names is None:
        names = [_unnamed(index) for index in range(number)]
    if not isinstance(names, list) or len(names) != number:
        raise ValueError(f"{key} must name each of the head's {number} classes, got {names!r:.200}")
    return Classes(tuple(map(str, names)))


def _unnamed(index: int) -> str:
    return f"LABEL_{index}"  # as transformers calls it


def _check_number(name: str, number: object) -> None:
    if type(number) is not int or not 1 <= number <= MOST_CLASSES:
        raise ValueError(f"{name} must be an integer from 1 to {MOST_CLASSES}, got {number!r:.200}")
