"""The plot of the IoU head's calibration."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.eval.clicks.scores import BINS, Calibration


def draw_calibration(calibration: Calibration, out: Path, *, title: str = "") -> None:
    """Draw mean real IoU over predicted IoU by bins; a calibrated head lies on the diagonal."""
    # Fixed margins: to measure each label first takes twice as long as to draw.
    figure = Figure(figsize=(6, 6.4))
    figure.subplots_adjust(0.125, 0.075, 0.975, 0.945, hspace=0.1)
    FigureCanvasAgg(figure)
    axis, histogram = figure.subplots(2, 1, height_ratios=[5, 1], sharex=True)
    filled = [i for i in range(BINS) if calibration.count[i]]
    predicted = [calibration.predicted[i] for i in filled]
    real = [calibration.real[i] for i in filled]
    axis.plot([0, 1], [0, 1], color="#9aa0a8", linestyle="--", linewidth=1, label="as it should be")
    axis.plot(predicted, real, color="#1e88ff", marker="o", label="measured")
    axis.set(
        xlim=(0, 1), ylim=(0, 1), ylabel="real IoU", title=title or "is the IoU head calibrated?"
    )
    axis.text(
        0.97,
        0.04,
        f"mean |error| {calibration.mean_absolute_error:.3f}\n"
        f"expected calibration error {calibration.expected_error:.3f}\n"
        f"correlation {calibration.correlation:.2f}",
        ha="right",
        transform=axis.transAxes,
    )
    axis.legend(loc="upper left", frameon=False)
    histogram.bar(
        [(i + 0.5) / BINS for i in range(BINS)], calibration.count, width=0.09, color="#9cc6ff"
    )
    histogram.set(xlabel="predicted IoU", ylabel="masks")
    for part in (axis, histogram):
        part.grid(alpha=0.25)
        part.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=100)
