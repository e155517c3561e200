"""Models that do not load."""

import pytest

from isoprefill.models.pretrained import load_pretrained


def assert_refused(source: object, message: str, **options: str) -> None:
    """Asserts that a model does not load, and that one line says why."""
    with pytest.raises(ValueError, match=message) as raised:
        load_pretrained(source, **options)
    assert "\n" not in str(raised.value)
