"""The edge benchmark over two folders, many images at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sam_train.errors import UserError
from sam_train.eval.tasks.edges.config import check_benchmark
from sam_train.eval.tasks.edges.counts import ImageCounts, count_image
from sam_train.eval.tasks.edges.readers import pair_files
from sam_train.eval.tasks.edges.result import EdgeResult

Progress = Callable[[int, int], None]


def evaluate_edges(
    maps: Path,
    ground_truth: Path,
    *,
    thresholds: int = 99,
    max_distance: float = 0.0075,
    workers: int = 2,
    progress: Progress | None = None,
) -> EdgeResult:
    """Run the BSDS boundary benchmark (ODS, OIS, AP, R50).

    Args:
        maps: folder of edge maps, see `EdgesConfig.maps`.
        ground_truth: folder of BSDS `.mat` files.
        thresholds: how many between 0 and 1.
        max_distance: fraction of the image's diagonal.
        workers: images at once. Threads: the kernels leave python's lock, nothing is copied.
        progress: called with (images done, images in all) in the caller's thread.

    Raises:
        UserError: a setting, a folder or a file is not as it should be.
    """
    check_benchmark(thresholds=thresholds, max_distance=max_distance)
    if workers < 1:
        raise UserError(f"workers={workers} must be at least 1")
    pairs = pair_files(maps, ground_truth)
    with ThreadPoolExecutor(workers) as pool:
        tasks = [
            pool.submit(count_image, pair, thresholds=thresholds, max_distance=max_distance)
            for pair in pairs
        ]
        try:
            for done, task in enumerate(as_completed(tasks), start=1):
                task.result()
                if progress:
                    progress(done, len(tasks))
        except BaseException:
            # Else leaving the pool would first work through all that waits.
            pool.shutdown(cancel_futures=True)
            raise
    counts = [task.result() for task in tasks]
    check_same_thresholds(counts)
    return EdgeResult.of(counts, max_distance=max_distance)


def check_same_thresholds(images: Sequence[ImageCounts]) -> None:
    """Refuse counts that do not add up threshold by threshold.

    Raises:
        UserError: they have not all the same number of thresholds.
    """
    for image in images:
        if image.thresholds != images[0].thresholds:
            raise UserError(
                f"{image.name} has {len(image.thresholds)} boundary maps, {images[0].name} has "
                f"{len(images[0].thresholds)}: files with segs need equally many, and no others "
                "beside them"
            )
