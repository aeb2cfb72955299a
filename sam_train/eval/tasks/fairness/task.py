"""`evaluate task=fairness`: random points on masks of people, mIoU by group."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sam_train.errors import UserError
from sam_train.eval.clicks.interactive import play_clicks
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import (
    EvalImage,
    open_datasets,
    prompt_batch,
    random_points,
    read_specs,
)
from sam_train.eval.frame.groups import Groups, read_groups
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture, TaskResult
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.fairness.config import check
from sam_train.eval.tasks.fairness.scores import draw_groups, result_of, score
from sam_train.model.config import photo_rule
from sam_train.runtime.jobs import SkipItem
from sam_train.types import Batch

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

log = logging.getLogger("sam_train")

_VERSION = 1
"""Version of the evaluation; raise it when that changes, as it voids older records."""
_DIGITS = 6
_OPTION = "fairness.groups"
_ABSENT = "image: named in the CSV, not in the data"
_CUT = "image: named in the CSV, beyond eval.masks or eval.images"


@dataclass(slots=True, kw_only=True)
class FairnessPhoto:
    """A photo and its masks that belong to some group."""

    batch: Batch
    names: list[str]
    groups: list[dict[str, str]]
    left_out: dict[str, int]


@register
class Fairness(Task[EvalImage]):
    """mIoU at 1 and 3 random points per group, with intervals (paper §6, C)."""

    name = "fairness"
    summary = "fairness: mIoU at random points, by groups of people"

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        check(cfg.fairness)
        _read(cfg)
        read_specs(cfg.eval.datasets)

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that a photo's record depends on, without the choice of photos."""
        return {
            "version": _VERSION,
            "points": max(cfg.fairness.points),
            "groups": _read(cfg).fingerprint,
            "min_area": cfg.eval.min_area,
            "precision": cfg.trainer.precision,
        }

    def items(self, run: Run) -> Sequence[EvalImage]:
        """List the photos of the data that the CSV names."""
        self._groups = groups = _read(run.cfg)
        absent, example = groups.entries(), ""

        def named(image: EvalImage) -> bool:
            nonlocal example
            example = example or image.name
            found = groups.found_as(image.dataset, image.name)
            if found is None:
                return False
            absent.difference_update([(found, ""), (found, image.dataset)])
            return True

        cfg = run.cfg.eval
        # That default keeps `points` quick; a CSV of people means all of them.
        if cfg.masks == EvalConfig.masks:
            cfg = replace(cfg, masks=None)
        found = open_datasets(
            cfg, photos=photo_rule(run.cfg.model), cache=run.run_dir / "datasets", wanted=named
        )
        images = [image for dataset in found for image in dataset.images]
        if not images:
            raise UserError(
                f"{_OPTION}={groups.path}: names none of the {sum(d.of for d in found)} images; "
                f"the file has {next(iter(groups.labels), 'no image')!r}, the data {example!r}"
            )
        cut = sum(dataset.cut for dataset in found)
        # The plus drops counts of 0, which would be shown as reasons.
        self._listed = +Counter({_ABSENT: len(absent), _CUT: cut})
        log.info("%s names %d images of the data", groups.path, len(images) + cut)
        if absent:
            log.warning(
                "%s: %d of its images are not in the data, %s among them",
                groups.path, len(absent), ", ".join(name for name, _ in sorted(absent)[:3]),
            )  # fmt: skip
        return images

    def load(self, run: Run, item: EvalImage) -> FairnessPhoto:
        """Read the photo at the model's size and draw the first points."""
        sample = item.load(min_area=run.cfg.eval.min_area)
        groups = self._groups.of_masks(item.dataset, item.name, sample.names)
        if not groups:
            raise SkipItem("no mask that the CSV names")
        masks = list(groups)
        labels = self._groups.of_image(item.dataset, item.name)
        left_out = Counter(sample.left_out)
        left_out["named in the CSV, not in the data"] = sum(
            not any(label.means(name) for name in sample.names) for label in labels
        )
        points = random_points(sample, seed=run.cfg.seed, masks=masks)
        return FairnessPhoto(
            batch=prompt_batch(sample, image_size=run.sam.image_size, points=points, masks=masks),
            names=[sample.names[k] for k in masks],
            groups=[groups[k] for k in masks],
            left_out=dict(+left_out),
        )

    def measure(self, run: Run, item: EvalImage, loaded: FairnessPhoto) -> Record:
        """Encode the photo once and click its masks."""
        batch = loaded.batch.to(run.device)
        clicked = play_clicks(
            run.sam,
            batch,
            run.sam.encode(batch.images, batch.image_sizes),
            rounds=max(run.cfg.fairness.points),
            first="random",
            max_masks=run.cfg.eval.max_masks,
        )
        return {
            "dataset": item.dataset,
            "names": loaded.names,
            "groups": loaded.groups,
            "left_out": loaded.left_out,
            "iou": clicked.iou.round(_DIGITS).tolist(),
        }

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Average the records by group and draw the groups."""
        cfg = run.cfg
        columns = _read(cfg).columns
        scores = score(records, columns=columns, points=cfg.fairness.points, shared=cfg.eval)
        result = result_of(scores, cfg=cfg)
        folder = run.folder(self)
        draw_groups(scores, folder / "groups.png", confidence=cfg.eval.confidence)
        result.pictures = [
            Picture(path=f"{self.name}/groups.png", title="mIoU by group", kind="bars")
        ]
        left_out: Counter[str] = Counter()
        for record in records:
            left_out.update({f"mask: {why}": n for why, n in record["left_out"].items()})
        result.skipped = dict((left_out + self._listed).most_common())
        result.details["settings"] = {"fairness": asdict(cfg.fairness), "eval": asdict(cfg.eval)}
        return result


def _read(cfg: RunConfig) -> Groups:
    return read_groups(cfg.fairness.groups, columns=cfg.fairness.columns, option=_OPTION)
