"""The figures of a k-click evaluation: sums that add up over ranks, and the means people read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from sam_train.errors import UserError

BINS = 10


@dataclass(slots=True, kw_only=True)
class Calibration:
    """Does the IoU head know how good its masks are? Over every mask that was returned."""

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
    """By number of clicks; at one click the most confident of three masks."""
    oracle: float
    """At one click, the best of the three masks (paper D)."""
    masks: int
    images: int
    calibration: Calibration

    def figures(self) -> dict[str, float]:
        """Flat names for loggers: miou_1, oracle, iou_error, iou_correlation."""
        return {
            **{f"miou_{n}": value for n, value in self.miou.items()},
            "oracle": self.oracle,
            "iou_error": self.calibration.mean_absolute_error,
            "iou_correlation": self.calibration.correlation,
        }

    def table(self) -> str:
        """The scores and the calibration bins as text for people."""
        c = self.calibration
        lines = [
            comparison_table({"mIoU": self}),
            f"over {self.masks} masks of {self.images} images",
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
        """Everything, as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ClickScores:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        raw["miou"] = {int(n): value for n, value in raw["miou"].items()}
        raw["calibration"] = Calibration(**raw["calibration"])
        return cls(**raw)


def comparison_table(rows: Mapping[str, ClickScores]) -> str:
    """mIoU by clicks, one row per name: untrained beside trained."""
    clicks = sorted({n for scores in rows.values() for n in scores.miou})
    heads = ["1 click", "oracle", *(f"{n} clicks" for n in clicks if n > 1)]
    width = max(len(name) for name in rows)
    lines = [" " * width + "".join(f"{head:>10}" for head in heads)]
    for name, scores in rows.items():
        values = [scores.miou.get(1), scores.oracle]
        values += [scores.miou.get(n) for n in clicks if n > 1]
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class ClickTally:
    """Running sums over masks. Means are taken once, after the sums of all ranks are added."""

    rounds: int
    """Most clicks a mask gets."""
    images: int = 0
    iou: list[Tensor] = field(default_factory=list)
    """float64 [m, rounds] per chunk."""
    oracle: list[Tensor] = field(default_factory=list)
    """float64 [m] per chunk."""
    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    """IoU of every returned mask, predicted and measured."""

    def _sums(self) -> Tensor:
        """float64, flat: [rounds] IoU, oracle, masks, images, 4 moments, [3, BINS] bins."""
        predicted = torch.tensor(self.predicted, dtype=torch.float64)
        real = torch.tensor(self.real, dtype=torch.float64)
        iou = torch.cat([torch.zeros(0, self.rounds, dtype=torch.float64), *self.iou])
        oracle = torch.cat([torch.zeros(0, dtype=torch.float64), *self.oracle])
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
        return torch.cat([iou.sum(0), oracle.sum()[None], counts, moments, table.flatten()])

    def scores(self, clicks: Sequence[int], *, device: torch.device | None = None) -> ClickScores:
        """The means over the masks of all ranks; the same answer on every rank.

        Args:
            clicks: at which numbers of clicks to report, each from 1 to `rounds`.
            device: where the collective runs; NCCL needs the GPU's.

        Raises:
            UserError: no rank has seen a mask.
        """
        sums = self._sums()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            sums = sums.to(device or "cpu")
            dist.all_reduce(sums)
            sums = sums.cpu()
        iou, (oracle, masks, images) = sums[: self.rounds], sums[self.rounds : self.rounds + 3]
        moments, bins = sums[self.rounds + 3 : -3 * BINS], sums[-3 * BINS :]
        if masks.item() == 0:
            raise UserError(
                "data.val gave no mask to evaluate: check its files and data.max_area_fraction"
            )
        return ClickScores(
            miou={n: float(iou[n - 1] / masks) for n in clicks},
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


__all__ = ["BINS", "Calibration", "ClickScores", "ClickTally", "comparison_table"]
