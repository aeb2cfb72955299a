"""`evaluate task=proposals`: masks of a checkpoint, or of any program, against LVIS or COCO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.errors import UserError
from sam_train.eval.coco import Results, Truth, TruthImage, TruthMask, open_truth, read_results
from sam_train.eval.coco.truth import FREQUENCIES, find_truth
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture, Row, TaskResult, Value
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.proposals.recall import (
    AT,
    SIZES,
    average_recall,
    count_found,
    given_proposals,
)
from sam_train.model.config import photo_rule
from sam_train.settings.sections import check_section
from sam_train.types import RLE

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

_VERSION = 1
"""Version of proposals and matching; raise it when they change, as it voids older records."""
_KINDS = ("all", *SIZES, *FREQUENCIES.values())
PAPER = (
    (
        "SAM ViT-H",
        {"all": 0.593, "small": 0.455, "medium": 0.816, "large": 0.869}
        | {"frequent": 0.591, "common": 0.639, "rare": 0.658},
    ),
    ("SAM ViT-H, single output", {"all": 0.549}),
    ("ViTDet-H", {"all": 0.630}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalItem:
    """An image of the ground truth."""

    key: str
    image: TruthImage


@dataclass(slots=True, kw_only=True)
class ProposalsPhoto:
    """The masks of an image that proposals should find."""

    masks: list[TruthMask]
    left_out: Counter[str]
    photo: Any
    """uint8 [H, W, 3], or None where the proposals are given."""


@register
class Proposals(Task[ProposalItem]):
    """Mask AR@1000 (paper §7.3, D.3)."""

    name = "proposals"
    summary = "object proposals: recall of 1000 masks, by size and by how rare the object is"
    headline = ("", ("all",))
    _truth: Truth
    _results: Results | None = None

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        own = cfg.proposals
        check_section(own)
        find_truth(own.ground_truth, own.images, cfg.eval.datasets, task=self.name)

    def needs_model(self, cfg: RunConfig) -> bool:
        """Return False for proposals of another program."""
        return not cfg.proposals.results

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that an item's record depends on."""
        own = cfg.proposals
        made = [own.points_per_side, own.nms, cfg.trainer.precision]
        return {"version": _VERSION, "limit": own.limit, "made": None if own.results else made}

    def items(self, run: Run) -> Sequence[ProposalItem]:
        """List the photos to measure."""
        own = run.cfg.proposals
        self._truth = open_truth(
            own.ground_truth, own.images, run.cfg.eval.datasets, task=self.name
        )
        self._truth.shown = photo_rule(run.cfg.model)
        source = self._truth.digest
        if own.results:
            self._results = read_results(
                Path(own.results).expanduser(),
                self._truth,
                option="proposals.results",
                categories=False,
            )
            source += self._results.digest
        images = self._truth.chosen(run.cfg.eval.images)
        # Finished masks need no photos, so a new photo leaves their records valid.
        photos = [""] * len(images) if own.results else self._truth.photo_stamps(images)
        return [
            ProposalItem(key=f"{image.key}@{source}{photo}", image=image)
            for image, photo in zip(images, photos, strict=True)
        ]

    def load(self, run: Run, item: ProposalItem) -> ProposalsPhoto:
        """Read the masks to be found, and the photo if a model proposes."""
        masks, left_out = self._truth.masks(item.image)
        photo = None if self._results is not None else self._truth.photo(item.image)
        return ProposalsPhoto(masks=masks, left_out=left_out, photo=photo)

    def measure(self, run: Run, item: ProposalItem, loaded: ProposalsPhoto) -> Record:
        """Count the masks that are found."""
        left_out = Counter(loaded.left_out)
        # Recall has nothing to count here, and proposing would cost seconds.
        if all(mask.crowd for mask in loaded.masks):
            return {"found": {}, "proposals": 0, "left_out": dict(left_out)}
        if self._results is None:
            proposals, scores = self._propose(run, loaded.photo)
        else:
            proposals, scores, unreadable = given_proposals(self._results, item.image)
            left_out["result: mask unreadable or of another size"] += unreadable
        categories = {k: c.frequency for k, c in self._truth.categories.items()}
        found = count_found(
            loaded.masks,
            proposals,
            scores,
            limit=run.cfg.proposals.limit,
            frequencies=categories,
        )
        return {"found": found, "proposals": len(proposals), "left_out": dict(+left_out)}

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Average recall over images and draw it over the number of proposals."""
        own = run.cfg.proposals
        numbers = [*(k for k in AT if k < own.limit), own.limit]
        counted = [record["found"] for record in records]
        curves = {kind: average_recall(counted, kind) for kind in _KINDS}
        values: dict[str, Value] = {kind: ars[-1] for kind, ars in curves.items() if ars}
        figures: dict[str, Value] = {f"ar_{kind}": value for kind, value in values.items()}
        for number, value in zip(numbers, curves["all"] or (), strict=False):
            figures[f"ar_at_{number}"] = value
        asked = [record for record in records if record["found"]]
        if not asked:
            raise UserError(f"proposals: {self._truth.path} has no mask in {len(records)} images")
        per_image = sum(record["proposals"] for record in asked) / len(asked)
        figures["proposals_per_image"] = per_image
        left_out = Counter(self._truth.left_out)
        if self._results is not None:
            left_out.update(self._results.left_out)
        for record in records:
            left_out.update(record["left_out"])
        columns = [kind for kind in _KINDS if kind in values or kind in PAPER[0][1]]
        name = Path(own.results).name if own.results else Path(run.source).name
        folder = run.folder(self)
        folder.mkdir(parents=True, exist_ok=True)
        _draw({kind: ars for kind, ars in curves.items() if ars}, numbers, folder / "recall.png")
        return TaskResult(
            task=self.name,
            title=f"Object proposals: mask AR@{own.limit}",
            checkpoint=own.results,
            figures=figures,
            columns=columns,
            rows=[
                Row(name=name, values=values),
                *(Row(name=n, values=dict(v), source="paper §7.3, LVIS") for n, v in PAPER),
            ],
            pictures=[Picture(path=f"{self.name}/recall.png", title="recall by proposals")],
            notes=[
                f"{len(asked)} images of {self._truth.path.name}, {per_image:.0f} proposals an "
                "image; published: LVIS v1 val",
                *self._truth.notes,
                *(self._results.notes if self._results is not None else ()),
            ],
            skipped=dict(left_out.most_common()),
            details={"numbers": numbers, "curves": curves, "settings": asdict(own)},
        )

    def _propose(self, run: Run, photo: Any) -> tuple[list[RLE], list[float]]:
        from sam_train.generate import AutomaticMaskGenerator, MaskConfig  # noqa: PLC0415
        from sam_train.masks.changes import compressed  # noqa: PLC0415

        own = run.cfg.proposals
        settings = MaskConfig(
            points_per_side=own.points_per_side,
            points_per_batch=run.cfg.eval.max_masks,
            # 0 switches the filters off (paper D.3).
            pred_iou_thresh=0.0,
            stability_score_thresh=0.0,
            box_nms_thresh=own.nms,
        )
        found = AutomaticMaskGenerator(run.sam, settings).propose(photo)
        masks = found.masks
        # An empty mask must not take one of the `limit` places.
        scores = np.where(masks.areas > 0, (masks.iou + masks.stability) / 2, -np.inf)
        best = np.argsort(-scores, kind="stable")[: own.limit]
        best = best[np.isfinite(scores[best])]
        rles = [_rle(compressed(masks.changes[k], found.photo)) for k in best]
        return rles, scores[best].tolist()


def _rle(found: Mapping[str, Any]) -> RLE:
    return RLE(size=found["size"], counts=found["counts"])


def _draw(curves: Mapping[str, Sequence[float]], numbers: Sequence[int], out: Path) -> None:
    """Draw AR over the number of proposals, a line per kind."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = ("black", "#56b4e9", "#0072b2", "#1b3a57", "#009e73", "#e69f00", "#d55e00")
    for kind, colour in zip(_KINDS, colours, strict=True):
        if kind in curves:
            dash = "--" if kind in FREQUENCIES.values() else "-"
            axis.plot(numbers, curves[kind], dash, color=colour, marker="o", ms=4, label=kind)
    axis.set_xscale("log")
    axis.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axis.minorticks_off()
    axis.set(ylim=(0, 1), xlabel="proposals an image", ylabel="average recall of masks")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(out, dpi=110)
