"""The outcome of the edge benchmark as JSON, text for people and the official program's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam_train.eval.tasks.edges.counts import ImageCounts
from sam_train.eval.tasks.edges.figures import Curve, Figures, Point, figures_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A method's figures on the 200 test images of BSDS500, from the paper's table (§7.3)."""

    name: str
    ods: float
    ois: float | None = None
    ap: float | None = None
    r50: float | None = None


PUBLISHED = (
    Published(name="HED", ods=0.788, ois=0.808, ap=0.840, r50=0.923),
    Published(name="SAM ViT-H", ods=0.768, ois=0.786, ap=0.794, r50=0.928),
    Published(name="Canny", ods=0.600, ois=0.640, ap=0.580),
    Published(name="Sobel", ods=0.539),
)

HUMAN = Point(threshold=float("nan"), recall=0.7235, precision=0.9014, f=0.8027)
"""People against each other on BSDS500, as Dollar and Zitnick's plots mark them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeResult:
    """Figures of one set of edge maps."""

    figures: Figures
    max_distance: float
    """Fraction of the diagonal within which pixels may correspond."""

    @classmethod
    def of(cls, images: Sequence[ImageCounts], *, max_distance: float) -> EdgeResult:
        """Compute the figures from the counts of at least one image."""
        return cls(figures=figures_of(images), max_distance=max_distance)

    def summary(self) -> dict[str, float]:
        """Return ods, ois, ap and r50."""
        f = self.figures
        return {"ods": f.ods.f, "ois": f.ois.f, "ap": f.ap, "r50": f.r50}

    def to_json(self) -> str:
        """Return all fields as indented JSON; the threshold of OIS, which has none, is null."""
        f = self.figures
        content: dict[str, Any] = {
            "task": "edges",
            "images": len(f.images),
            "max_distance": self.max_distance,
            **self.summary(),
            "ods_point": asdict(f.ods),
            # NaN, which JSON cannot hold: each image has a threshold of its own.
            "ois_point": {**asdict(f.ois), "threshold": None},
            "curve": [asdict(point) for point in f.curve.points()],
            "per_image": {name: asdict(point) for name, point in f.images.items()},
            "published_on_bsds500_test": [asdict(row) for row in PUBLISHED],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EdgeResult:
        """Read the output of `to_json`."""
        raw = json.loads(text)
        columns = {
            key: np.array([row[key] for row in raw["curve"]], dtype=np.float64)
            for key in ("threshold", "recall", "precision", "f")
        }
        figures = Figures(
            ods=Point(**raw["ods_point"]),
            ois=Point(**{**raw["ois_point"], "threshold": float("nan")}),
            ap=raw["ap"],
            r50=raw["r50"],
            curve=Curve(**columns),
            images={name: Point(**point) for name, point in raw["per_image"].items()},
        )
        return cls(figures=figures, max_distance=raw["max_distance"])

    def table(self, *, name: str = "these maps") -> str:
        """Format the figures above the published ones, as text for people."""
        f = self.figures
        ours = Published(name=name, ods=f.ods.f, ois=f.ois.f, ap=f.ap, r50=f.r50)
        width = max(len(row.name) for row in (ours, *PUBLISHED))
        lines = [" " * width + "".join(f"{head:>8}" for head in ("ODS", "OIS", "AP", "R50"))]
        for row in (ours, *PUBLISHED):
            values = (row.ods, row.ois, row.ap, row.r50)
            cells = ("-" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"{row.name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
        count = len(f.images)
        lines += [
            "",
            f"{name}: {count} image{'s' * (count != 1)}; best threshold {f.ods.threshold:.3f} with "
            f"precision {f.ods.precision:.3f}, recall {f.ods.recall:.3f}",
            "the others: 200 test images of BSDS500, as the paper gives them",
        ]
        return "\n".join(lines)

    def write_official_files(self, folder: Path) -> None:
        """Write `eval_bdry.txt`, `eval_bdry_thr.txt` and `eval_bdry_img.txt`.

        They have the official layout, for programs that draw or compare curves.
        """
        f = self.figures
        last = [f.ois.recall, f.ois.precision, f.ois.f, f.ap]
        _write(folder / "eval_bdry.txt", [[*_row(f.ods), *last]])
        _write(folder / "eval_bdry_thr.txt", [_row(point) for point in f.curve.points()])
        images = enumerate(f.images.values(), start=1)
        _write(folder / "eval_bdry_img.txt", [[number, *_row(point)] for number, point in images])


def _row(point: Point) -> list[float]:
    return [point.threshold, point.recall, point.precision, point.f]


def _write(path: Path, rows: list[list[float]]) -> None:
    path.write_text("".join(" ".join(f"{value:10.6g}" for value in row) + "\n" for row in rows))
