"""The figures of a k-click evaluation: sums that add up over ranks, and means for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from sam_train.data.shards.groups_file import NAME as GROUPS_FILE
from sam_train.errors import UserError
from sam_train.eval.frame.bootstrap import Interval
from sam_train.eval.frame.by_group import PhotoSums, intervals
from sam_train.runtime.dist import gather

BINS = 10


@dataclass(slots=True, kw_only=True)
class Calibration:
    """Predicted against measured IoU over all masks that were returned."""

    count: list[int]
    """Masks per bin; bin i holds predicted IoUs in [i / 10, (i + 1) / 10), clamped to [0, 1]."""
    predicted: list[float]
    """Mean predicted IoU per bin, 0 where the bin is empty."""
    real: list[float]
    """Mean real IoU per bin, 0 where the bin is empty."""
    mean_absolute_error: float
    """Mean of |predicted - real| over masks."""
    expected_error: float
    """|mean predicted - mean real| per bin, weighted by count (as ECE for classifiers)."""
    correlation: float
    """Pearson's, between predicted and real; 0 where one of them does not vary."""


@dataclass(slots=True, kw_only=True)
class ClickScores:
    """Mean IoU over masks, at the original resolution."""

    miou: dict[int, float]
    """Mean IoU by number of clicks; after one click, of the most confident of three masks."""
    oracle: float
    """Mean IoU of the best of the three masks after one click (paper D)."""
    masks: int
    images: int
    calibration: Calibration
    box: float | None = None
    """Mean IoU by the exact box instead of a click; None where it was not measured."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95 % interval by name: miou_1, oracle, box; empty with fewer than two groups of photos."""
    groups: int = 0
    """Number of groups of photos that the intervals resample."""
    grouped: bool = False
    """True where `groups.tsv` groups the photos; else each photo is a group."""

    def means(self) -> dict[str, float]:
        """Return the mean IoUs by flat names: miou_1, oracle, miou_2, box."""
        means = {f"miou_{n}": self.miou[n] for n in sorted(self.miou)}
        # The oracle is of one click, so it stands beside that figure.
        first = {"miou_1": means.pop("miou_1")} if "miou_1" in means else {}
        box = {} if self.box is None else {"box": self.box}
        return {**first, "oracle": self.oracle, **means, **box}

    def figures(self) -> dict[str, float]:
        """Return all figures by flat names for loggers.

        These are the means, the ends of their intervals (miou_1_low, miou_1_high), iou_error and
        iou_correlation.
        """
        return {
            **self.means(),
            **{f"{name}_low": ends.low for name, ends in self.intervals.items()},
            **{f"{name}_high": ends.high for name, ends in self.intervals.items()},
            "iou_error": self.calibration.mean_absolute_error,
            "iou_correlation": self.calibration.correlation,
        }

    def basis(self) -> str:
        """Describe the basis of the intervals in a few words."""
        if not self.intervals:
            return "no intervals: they need two groups of images or more"
        of = f"groups of images ({GROUPS_FILE})" if self.grouped else "images"
        return f"95 % intervals by resampling {self.groups} {of}"

    def line(self) -> str:
        """Return the means with their intervals on one line."""
        words = {"oracle": "oracle", "box": "box"}
        parts = []
        for name, mean in self.means().items():
            said = f"{words.get(name, name.removeprefix('miou_'))}: {mean:.3f}"
            ends = self.intervals.get(name)
            parts.append(said if ends is None else f"{said} ({short_interval(ends)})")
        return "  ".join(parts)

    def table(self) -> str:
        """Format the scores and the calibration bins as text for people."""
        c = self.calibration
        lines = [
            comparison_table({"mIoU": self}),
            f"over {self.masks} masks of {self.images} images; {self.basis()}",
            "",
            "predicted IoU  masks  mean predicted  mean real",
        ]
        for i, (count, predicted, real) in enumerate(
            zip(c.count, c.predicted, c.real, strict=True)
        ):
            if count:
                name = f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}"
                lines.append(f"{name:>13}  {count:5d}  {predicted:14.3f}  {real:9.3f}")
        lines.append(
            f"mean absolute error {c.mean_absolute_error:.3f}, "
            f"expected calibration error {c.expected_error:.3f}, correlation {c.correlation:.3f}"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return all fields as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ClickScores:
        """Read the output of `to_json`."""
        raw = json.loads(text)
        # JSON has text keys only.
        raw["miou"] = {int(n): value for n, value in raw["miou"].items()}
        raw["calibration"] = Calibration(**raw["calibration"])
        # Files of versions without intervals have none.
        ends = raw.get("intervals", {})
        raw["intervals"] = {name: Interval(**pair) for name, pair in ends.items()}
        return cls(**raw)


def comparison_table(rows: Mapping[str, ClickScores]) -> str:
    """Return mIoU by clicks and by box, one row per name, its 95 % intervals below it."""
    clicks = sorted({n for scores in rows.values() for n in scores.miou} - {1})
    columns = {"miou_1": "1 click", "oracle": "oracle"}
    columns |= {f"miou_{n}": f"{n} clicks" for n in clicks}
    if any(scores.box is not None for scores in rows.values()):
        columns["box"] = "box"
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{head:>10}" for head in columns.values())]
    for name, scores in rows.items():
        means = scores.means()
        cells = [f"{means[key]:.3f}" if key in means else "-" for key in columns]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
        if scores.intervals:
            ends = [scores.intervals.get(key) for key in columns]
            cells = ["" if each is None else short_interval(each) for each in ends]
            lines.append(f"{'95 %':<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def short_interval(ends: Interval) -> str:
    """Return the ends in at most nine characters: .693-.750, .981-1.00."""

    def short(value: float) -> str:
        text = f"{value:.3f}"
        return "1.00" if text.startswith("1") else text.removeprefix("0")

    return f"{short(ends.low)}-{short(ends.high)}"


@dataclass(slots=True, kw_only=True)
class ClickTally:
    """Running sums over masks. Means are taken once, after the sums of all ranks are added."""

    rounds: int
    """Most clicks a mask gets."""
    boxes: bool = False
    """Boxes are measured as well; the same on every rank."""
    images: int = 0
    iou: list[Tensor] = field(default_factory=list)
    """float64 [m, rounds] per chunk."""
    oracle: list[Tensor] = field(default_factory=list)
    """float64 [m] per chunk."""
    box: list[Tensor] = field(default_factory=list)
    """float64 [m] per chunk; empty without `boxes`."""
    photos: list[PhotoSums] = field(default_factory=list)
    """Per photo the sums of [rounds] IoU, oracle and, with `boxes`, box; for the intervals."""
    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    """IoU of every returned mask, predicted and measured."""

    def _sums(self) -> Tensor:
        """Return the sums as a flat float64 tensor.

        [rounds] IoU, oracle, box, masks, images, 4 moments, [3, BINS] bins.
        """
        predicted = torch.tensor(self.predicted, dtype=torch.float64)
        real = torch.tensor(self.real, dtype=torch.float64)
        iou = torch.cat([torch.zeros(0, self.rounds, dtype=torch.float64), *self.iou])
        nothing = torch.zeros(0, dtype=torch.float64)
        oracle, box = torch.cat([nothing, *self.oracle]), torch.cat([nothing, *self.box])
        # The head is not bounded, and a prediction of 1 belongs into the last bin.
        bins = (predicted.clamp(0, 1) * BINS).long().clamp(max=BINS - 1)
        table = torch.zeros(3, BINS, dtype=torch.float64)
        for row, values in enumerate((torch.ones_like(real), predicted, real)):
            table[row].index_add_(0, bins, values)
        moments = torch.stack(
            [
                (predicted - real).abs().sum(),
                (predicted**2).sum(),
                (real**2).sum(),
                (predicted * real).sum(),
            ]
        )
        counts = torch.tensor([iou.shape[0], self.images], dtype=torch.float64)
        single = torch.stack([oracle.sum(), box.sum()])
        return torch.cat([iou.sum(0), single, counts, moments, table.flatten()])

    def scores(self, clicks: Sequence[int], *, device: torch.device | None = None) -> ClickScores:
        """Return the means over the masks of all ranks; every rank gets the same.

        Args:
            clicks: numbers of clicks to report, each from 1 to `rounds`.
            device: that of the collective; NCCL needs the GPU's.

        Raises:
            UserError: no rank has seen a mask.
        """
        sums = self._sums()
        # Sums, not means, cross the ranks: each rank has another number of masks.
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            sums = sums.to(device or "cpu")
            dist.all_reduce(sums)
            sums = sums.cpu()
        iou, rest = sums[: self.rounds], sums[self.rounds :]
        (oracle, box, masks, images), moments, bins = (
            rest[:4],
            rest[4 : -3 * BINS],
            rest[-3 * BINS :],
        )
        if masks.item() == 0:
            raise UserError(
                "data.val gave no mask to evaluate: check its files and data.max_area_fraction"
            )
        # In the order of the columns in `photos`; without boxes the last name stays unused.
        names = [*(f"miou_{n + 1}" for n in range(self.rounds)), "oracle", "box"]
        spread = intervals([photo for part in gather(self.photos) for photo in part])
        ends = dict(zip(names, spread.ends, strict=False))
        kept = {"oracle", "box", *(f"miou_{n}" for n in clicks)}
        return ClickScores(
            miou={n: float(iou[n - 1] / masks) for n in clicks},
            box=float(box / masks) if self.boxes else None,
            intervals={name: each for name, each in ends.items() if name in kept},
            groups=spread.units,
            grouped=spread.grouped,
            oracle=float(oracle / masks),
            masks=int(masks),
            images=int(images),
            calibration=_calibration(moments, bins.view(3, BINS)),
        )


def _calibration(moments: Tensor, bins: Tensor) -> Calibration:
    count, predicted, real = bins
    n = count.sum()
    mean_predicted, mean_real = predicted.sum() / n, real.sum() / n
    absolute, predicted_squared, real_squared, product = moments
    # From moments, which add up over ranks; rounding may leave a variance slightly below zero.
    variance_p = (predicted_squared / n - mean_predicted**2).clamp(min=0)
    variance_r = (real_squared / n - mean_real**2).clamp(min=0)
    spread = (variance_p * variance_r).sqrt()
    covariance = product / n - mean_predicted * mean_real
    divisor = count.clamp(min=1)
    return Calibration(
        count=[int(c) for c in count],
        predicted=(predicted / divisor).tolist(),
        real=(real / divisor).tolist(),
        mean_absolute_error=float(absolute / n),
        expected_error=float((predicted - real).abs().sum() / n),
        correlation=float(covariance / spread) if spread > 1e-12 else 0.0,
    )
