"""The BSDS benchmark over two folders, one image after the other, without the frame of tasks."""

from __future__ import annotations

from pathlib import Path

from sam_train.eval.tasks.edges.counts import check_same_thresholds, count_image
from sam_train.eval.tasks.edges.readers import pair_files
from sam_train.eval.tasks.edges.result import EdgeResult


def evaluate_edges(
    maps: Path, ground_truth: Path, *, thresholds: int = 99, max_distance: float = 0.0075
) -> EdgeResult:
    counts = [
        count_image(pair, thresholds=thresholds, max_distance=max_distance)
        for pair in pair_files(maps, ground_truth)
    ]
    check_same_thresholds(counts)
    return EdgeResult.of(counts, max_distance=max_distance)
