"""Isolated multi-item prefill: score many items against one query, exactly, in one prefill.

Names load when they are first used: importing this package alone does not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill.attention import multi_item_attention
    from isoprefill.attention.layout import PackedLayout
    from isoprefill.execution.engine import ScoringEngine
    from isoprefill.execution.mesh import MeshShape
    from isoprefill.execution.warm_up import Workload
    from isoprefill.request.errors import MissingLogprobError, RequestError
    from isoprefill.request.labels import LabelSets
    from isoprefill.request.options import ScoreOptions
    from isoprefill.request.result import ScoreResult, Usage

_HOMES = {
    "LabelSets": "isoprefill.request.labels",
    "MeshShape": "isoprefill.execution.mesh",
    "MissingLogprobError": "isoprefill.request.errors",
    "PackedLayout": "isoprefill.attention.layout",
    "RequestError": "isoprefill.request.errors",
    "ScoreOptions": "isoprefill.request.options",
    "ScoreResult": "isoprefill.request.result",
    "ScoringEngine": "isoprefill.execution.engine",
    "Usage": "isoprefill.request.result",
    "Workload": "isoprefill.execution.warm_up",
    "multi_item_attention": "isoprefill.attention",
}

__version__ = "0.1.0"
__all__ = [
    "LabelSets",
    "MeshShape",
    "MissingLogprobError",
    "PackedLayout",
    "RequestError",
    "ScoreOptions",
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
