"""JSON objects without a key twice: readers of JSON disagree on which of the values counts."""

from typing import Any


class DuplicateKeyError(Exception):
    """An object has this key twice.

    Attributes:
        key: the first that occurs again.
    """

    def __init__(self, key: str) -> None:
        """Takes the key."""
        super().__init__(key)
        self.key = key


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object, for `object_pairs_hook` of `json.loads`; raises DuplicateKeyError."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return made
