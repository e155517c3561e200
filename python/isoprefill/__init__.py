"""Isolated multi-item prefill: score many items against one query, exactly, in one prefill.

Names load when they are first used: importing this package alone does not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill.attention import multi_item_attention
    from isoprefill.engine import ScoringEngine
    from isoprefill.labels import LabelSets
    from isoprefill.layout import PackedLayout
    from isoprefill.mesh import MeshShape
    from isoprefill.request_error import MissingLogprobError, RequestError
    from isoprefill.result import ScoreResult, Usage
    from isoprefill.warm_up import Workload

_HOMES = {
    "LabelSets": "isoprefill.labels",
    "MeshShape": "isoprefill.mesh",
    "MissingLogprobError": "isoprefill.request_error",
    "PackedLayout": "isoprefill.layout",
    "RequestError": "isoprefill.request_error",
    "ScoreResult": "isoprefill.result",
    "ScoringEngine": "isoprefill.engine",
    "Usage": "isoprefill.result",
    "Workload": "isoprefill.warm_up",
    "multi_item_attention": "isoprefill.attention",
}

__version__ = "0.1.0"
__all__ = [
    "LabelSets",
    "MeshShape",
    "MissingLogprobError",
    "PackedLayout",
    "RequestError",
    "ScoreResult",
    "ScoringEngine",
    "Usage",
    "Workload",
    "__version__",
    "multi_item_attention",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
