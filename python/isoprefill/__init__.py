"""Isolated multi-item prefill: score many items against one query, exactly, in one prefill.

Names load when they are first used: importing this package alone does not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoprefill.attention import multi_item_attention as multi_item_attention
    from isoprefill.attention.layout import PackedLayout as PackedLayout
    from isoprefill.execution.engine import ScoringEngine as ScoringEngine
    from isoprefill.execution.mesh import MeshShape as MeshShape
    from isoprefill.execution.warm_up import Workload as Workload
    from isoprefill.request.errors import MissingLogprobError as MissingLogprobError
    from isoprefill.request.errors import RequestError as RequestError
    from isoprefill.request.labels import LabelSets as LabelSets
    from isoprefill.request.options import ScoreOptions as ScoreOptions
    from isoprefill.request.result import ScoreResult as ScoreResult
    from isoprefill.request.result import Usage as Usage
    from isoprefill.request.vectors import EmbedOverrides as EmbedOverrides
    from isoprefill.rerank.reranker import Reranker as Reranker

_HOMES = {
    "EmbedOverrides": "isoprefill.request.vectors",
    "LabelSets": "isoprefill.request.labels",
    "MeshShape": "isoprefill.execution.mesh",
    "MissingLogprobError": "isoprefill.request.errors",
    "PackedLayout": "isoprefill.attention.layout",
    "RequestError": "isoprefill.request.errors",
    "Reranker": "isoprefill.rerank.reranker",
    "ScoreOptions": "isoprefill.request.options",
    "ScoreResult": "isoprefill.request.result",
    "ScoringEngine": "isoprefill.execution.engine",
    "Usage": "isoprefill.request.result",
    "Workload": "isoprefill.execution.warm_up",
    "multi_item_attention": "isoprefill.attention",
}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
