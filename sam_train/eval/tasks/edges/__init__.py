"""Edges (paper §7.3, D.2): from masks to an edge map, and the BSDS boundary benchmark."""

from __future__ import annotations

from sam_train.eval.tasks.edges.config import EdgesConfig
from sam_train.eval.tasks.edges.edge_map import edge_map
from sam_train.eval.tasks.edges.plot import draw_precision_recall
from sam_train.eval.tasks.edges.result import EdgeResult

__all__ = [
    "EdgeResult",
    "EdgesConfig",
    "draw_precision_recall",
    "edge_map",
]
