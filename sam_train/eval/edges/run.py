"""The edge benchmark over two folders: many images at once, resumable, with its files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from sam_train.errors import UserError
from sam_train.eval.edges.counts import ImageCounts, count_image
from sam_train.eval.edges.plot import draw_precision_recall
from sam_train.eval.edges.readers import Pair, pair_files
from sam_train.eval.edges.result import EdgeResult
from sam_train.eval.edges.store import CountStore

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class EdgesConfig:
    """Which maps, against what, and how closely."""

    maps: str = ""
    """Folder of edge maps, named as the ground truths: `.png` (grey / 255) or `.mat` with `ucm2`
    (contours at double resolution) or `segs` (label maps)."""
    ground_truth: str = ""
    """Folder of BSDS ground truths (`.mat`); every one of them needs a map."""
    thresholds: int = 99
    """How many, evenly between 0 and 1 (the benchmark's own number)."""
    max_distance: float = 0.0075
    """How far apart corresponding pixels may lie, as a fraction of the image's diagonal."""
    workers: int = 2
    """Images at once; one core each."""


def evaluate_edges(
    maps: Path,
    ground_truth: Path,
    *,
    thresholds: int = 99,
    max_distance: float = 0.0075,
    workers: int = 2,
    progress: Progress | None = None,
    store: Path | None = None,
) -> EdgeResult:
    """The BSDS boundary benchmark (ODS, OIS, AP, R50).

    Args:
        maps: folder of edge maps, see `EdgesConfig.maps`.
        ground_truth: folder of BSDS `.mat` files.
        thresholds: how many between 0 and 1.
        max_distance: fraction of the image's diagonal.
        workers: images at once. Threads: the kernels leave python's lock, nothing is copied.
        progress: called with (images done, images in all) in the caller's thread.
        store: folder in which counts of finished images are kept and looked for.

    Raises:
        UserError: a setting, a folder or a file is not as it should be.
    """
    _check(thresholds=thresholds, max_distance=max_distance, workers=workers)
    pairs = pair_files(maps, ground_truth)
    kept = CountStore(store, thresholds=thresholds, max_distance=max_distance) if store else None

    def count(pair: Pair) -> ImageCounts:
        counts = kept.load(pair) if kept else None
        if counts is None:
            counts = count_image(pair, thresholds=thresholds, max_distance=max_distance)
            if kept:
                kept.save(pair, counts)
        return counts

    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(count, pair) for pair in pairs]
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
    _check_same_thresholds(counts)
    return EdgeResult.of(counts, max_distance=max_distance)


def run(cfg: EdgesConfig, run_dir: Path, *, progress: Progress | None = None) -> EdgeResult:
    """Evaluate and write `edges.json`, `edges.txt`, `edges.png` and `edges/` into `run_dir`.

    `edges/` holds the counts per image, by which a second call goes on where the first stopped, and
    the official program's three files.

    Raises:
        UserError: as `evaluate_edges`.
    """
    for option in ("maps", "ground_truth"):
        if not getattr(cfg, option):
            raise UserError(f"edges.{option} is not set; give it a folder: edges.{option}=FOLDER")
    result = evaluate_edges(
        Path(cfg.maps),
        Path(cfg.ground_truth),
        thresholds=cfg.thresholds,
        max_distance=cfg.max_distance,
        workers=cfg.workers,
        progress=progress,
        store=run_dir / "edges" / "counts",
    )
    name = Path(cfg.maps).name
    result.write_official_files(run_dir / "edges")
    draw_precision_recall({name: result}, run_dir / "edges.png")
    (run_dir / "edges.txt").write_text(result.table(name=name) + "\n")
    (run_dir / "edges.json").write_text(result.to_json())
    return result


def _check(*, thresholds: int, max_distance: float, workers: int) -> None:
    if thresholds < 1:
        raise UserError(f"edges.thresholds={thresholds} must be at least 1 (the benchmark has 99)")
    if workers < 1:
        raise UserError(f"edges.workers={workers} must be at least 1")
    if not 0 < max_distance < 1:
        raise UserError(
            f"edges.max_distance={max_distance} must lie between 0 and 1: a fraction of the "
            "diagonal (BSDS500 uses 0.0075)"
        )


def _check_same_thresholds(images: list[ImageCounts]) -> None:
    for image in images:
        if image.thresholds != images[0].thresholds:
            raise UserError(
                f"{image.name} has {len(image.thresholds)} boundary maps, {images[0].name} has "
                f"{len(images[0].thresholds)}: files with segs need equally many, and no others "
                "beside them"
            )
