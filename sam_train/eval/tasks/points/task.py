"""`evaluate task=points`: photos in, clicks and their IoU out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sam_train.eval.clicks.interactive import play_clicks
from sam_train.eval.datasets import (
    EvalImage,
    open_datasets,
    prompt_batch,
    random_points,
    read_specs,
)
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture, TaskResult
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.points.config import check
from sam_train.eval.tasks.points.film import draw_films
from sam_train.eval.tasks.points.plots import draw_bars, draw_clicks
from sam_train.eval.tasks.points.scores import DatasetScores, result_of, score
from sam_train.model.config import photo_rule
from sam_train.types import Batch

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

_VERSION = 2
"""Version of the evaluation; raise it when that changes, as it voids older records."""
_DIGITS = 6


@dataclass(slots=True, kw_only=True)
class PointsPhoto:
    """A photo, ready to be encoded."""

    batch: Batch
    names: list[str]
    areas: list[int]
    left_out: dict[str, int]


@register
class Points(Task[EvalImage]):
    """mIoU after 1, 2, 3, 5 and 9 clicks on each data set (paper §7.1, D.1)."""

    name = "points"
    summary = "points to masks: mIoU by clicks on each data set"
    headline = ("average", ("1 click", "oracle", "9 clicks"))

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        check(cfg.points)
        read_specs(cfg.eval.datasets)

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that a photo's record depends on, without the choice of photos."""
        return {
            "version": _VERSION,
            "clicks": max(cfg.points.clicks),
            "first": sorted(cfg.points.first),
            "noc": [max(cfg.points.noc, default=0), cfg.points.noc_clicks],
            "min_area": cfg.eval.min_area,
            "precision": cfg.trainer.precision,
        }

    def items(self, run: Run) -> Sequence[EvalImage]:
        """List the photos to measure."""
        found = open_datasets(
            run.cfg.eval, photos=photo_rule(run.cfg.model), cache=run.run_dir / "datasets"
        )
        self._listed = {dataset.name: dataset.skipped for dataset in found}
        images = [image for dataset in found for image in dataset.images]
        self._images = {image.key: image for image in images}
        return images

    def load(self, run: Run, item: EvalImage) -> PointsPhoto:
        """Read the photo at the model's size and draw random first clicks."""
        sample = item.load(min_area=run.cfg.eval.min_area)
        points = random_points(sample, seed=run.cfg.seed)
        return PointsPhoto(
            batch=prompt_batch(sample, image_size=run.sam.image_size, points=points),
            names=sample.names,
            areas=sample.areas,
            left_out=sample.left_out,
        )

    def measure(self, run: Run, item: EvalImage, loaded: PointsPhoto) -> Record:
        """Encode the photo once and click its masks with each kind of first click."""
        cfg, clicks = run.cfg, max(run.cfg.points.clicks)
        noc = cfg.points.noc
        # One evaluation serves both figures; masks that reached the highest IoU of NoC stop early.
        rounds = max(clicks, cfg.points.noc_clicks) if noc else clicks
        batch = loaded.batch.to(run.device)
        embeddings = run.sam.encode(batch.images, batch.image_sizes)
        record: Record = {
            "dataset": item.dataset,
            "names": loaded.names,
            "areas": loaded.areas,
            # With the areas it tells the filmstrips which masks are too small to show.
            "size": loaded.batch.original_sizes[0].tolist(),
            "left_out": loaded.left_out,
        }
        for first in cfg.points.first:
            clicked = play_clicks(
                run.sam,
                batch,
                embeddings,
                rounds=rounds,
                first=first,
                max_masks=cfg.eval.max_masks,
                enough=(clicks, max(noc) / 100) if noc else None,
            )
            record[first] = {"iou": _listed(clicked.iou), "oracle": _listed(clicked.oracle)}
        return record

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Average the records; draw curves, bars and filmstrips of typical and of worst cases."""
        cfg = run.cfg
        names = list(dict.fromkeys(str(record["dataset"]) for record in records))
        scores: list[DatasetScores] = [
            score(
                [record for record in records if record["dataset"] == name],
                name=name,
                first=first,
                points=cfg.points,
                shared=cfg.eval,
            )
            for first in cfg.points.first
            for name in names
        ]
        result = result_of(scores, cfg=cfg)
        folder = run.folder(self)
        draw_clicks(scores, folder / "clicks.png")
        draw_bars(scores, folder / "bars.png", confidence=cfg.eval.confidence)
        result.pictures = [
            Picture(path=f"{self.name}/clicks.png", title="mIoU by clicks"),
            Picture(path=f"{self.name}/bars.png", title="mIoU at one click", kind="bars"),
            *draw_films(run, records, self._images, folder=folder, rows=cfg.points.film_rows),
        ]
        left_out: Counter[str] = Counter()
        for record in records:
            left_out.update({f"mask: {why}": n for why, n in record["left_out"].items()})
        for skipped in self._listed.values():
            left_out.update(skipped)
        result.skipped = dict(left_out.most_common())
        result.details["settings"] = {"points": asdict(cfg.points), "eval": asdict(cfg.eval)}
        return result


def _listed(values: npt.NDArray[np.float64]) -> list[Any]:
    rounded: list[Any] = values.round(_DIGITS).tolist()
    return rounded
