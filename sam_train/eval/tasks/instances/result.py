"""The table of `task=instances`, and a bar per category."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.eval.coco.precision import Precision
from sam_train.eval.frame.result import Picture, Row, TaskResult, Value

_SHOWN = 30
"""Most categories that are drawn; LVIS has 1203."""
PAPER = {
    "COCO": (
        ("SAM ViT-H, boxes of ViTDet-H", (0.465, 0.308, 0.510, 0.617)),
        ("ViTDet-H", (0.510,)),
    ),
    "LVIS v1": (
        ("SAM ViT-H, boxes of ViTDet-H", (0.447, 0.325, 0.576, 0.655)),
        ("ViTDet-H", (0.466,)),
    ),
}
_PUBLISHED = ("AP", "small", "medium", "large")


def result_of(
    masks: Precision,
    boxes: Precision | None,
    *,
    lvis: bool,
    name: str,
    miou: float | None,
    folder: Path,
) -> TaskResult:
    """Make the figures, the table and the picture.

    Args:
        masks: of the masks.
        boxes: of the detector's boxes, by box IoU.
        lvis: published rows of LVIS, else of COCO.
        name: of what is measured.
        miou: of masks for ground-truth boxes with the ground truth.
        folder: of the task.
    """
    columns = {"AP": "ap", "AP50": "ap_50", "AP75": "ap_75"}
    columns |= {size: f"ap_{size}" for size in ("small", "medium", "large")}
    if lvis:
        columns |= {word: f"ap_{word}" for word in ("rare", "common", "frequent")}
    columns["AR"] = "ar"
    figures: dict[str, Value] = dict(masks.figures)
    rows = [Row(name=name, values={head: masks.figures[key] for head, key in columns.items()})]
    if boxes is not None:
        figures |= {f"box_{key}": value for key, value in boxes.figures.items()}
        values = {head: boxes.figures[key] for head, key in columns.items()}
        rows.append(Row(name="the boxes themselves (box IoU)", values=values))
    if miou is not None:
        figures["miou"] = miou
        rows[0].values["mIoU"] = miou
    kind = "LVIS v1" if lvis else "COCO"
    for who, numbers in PAPER[kind]:
        values = dict(zip(_PUBLISHED, numbers, strict=False))
        rows.append(Row(name=who, values=dict(values), source=f"paper §7.4, {kind}"))
    _draw(masks.categories, folder / "categories.png")
    return TaskResult(
        task="instances",
        title=f"Instance segmentation: {kind} AP",
        figures=figures,
        columns=[*columns, *(["mIoU"] if miou is not None else [])],
        rows=rows,
        pictures=[
            Picture(path="instances/categories.png", title="mask AP by category", kind="bars")
        ],
        notes=[f"published: {'LVIS v1 val' if lvis else 'COCO val2017'}"],
        details={
            "categories": masks.categories,
            "boxes": boxes.categories if boxes is not None else None,
        },
    )


def _draw(categories: Mapping[str, float], out: Path) -> None:
    """Draw mask AP by category: all of them, or the best and the worst of many."""
    order = sorted(categories, key=categories.__getitem__)
    if len(order) > _SHOWN:
        order = [*order[: _SHOWN // 2], *order[-_SHOWN // 2 :]]
    figure = Figure(figsize=(7.2, 1.2 + 0.24 * max(1, len(order))), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, name in enumerate(order):
        axis.barh(place, categories[name], color="#0072b2", height=0.7, zorder=2)
        axis.annotate(
            f"{categories[name]:.2f}", (categories[name], place), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(range(len(order)), order, fontsize=8)
    left = len(categories) - len(order)
    shown = f"; {left} between them are not shown" if left else ""
    axis.set(xlim=(0, 1.08), xlabel=f"mask AP{shown}", ylim=(-0.7, max(1, len(order)) - 0.3))
    axis.grid(axis="x", alpha=0.25, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
