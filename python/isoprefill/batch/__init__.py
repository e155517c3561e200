"""Offline scoring of tables with Ray: `isoprefill batch`, and `score_dataset` for pipelines of Ray Data.

Ray and pyarrow (`pip install isoprefill[batch]`) are imported where they are used: importing this imports neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill.batch.dataset import score_dataset as score_dataset

__all__ = ["score_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from isoprefill.batch.dataset import score_dataset

    return score_dataset
