"""`python -m data_tools.stats`: figures that agree with scipy and pycocotools, and add up."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import center_of_mass
from scipy.spatial import ConvexHull

from data_tools import stats_kernels
from data_tools.stats import main, measure, percentile
from data_tools.stats_part import AXES, Axis, Quantity
from data_tools.stats_plots import coarsened, shown_bins
from sam_train.data.shards.writer import ShardSample, annotate_masks, write_shards
from sam_train.masks import rle

H, W = 40, 60


def draw(seed: int) -> npt.NDArray[np.bool_]:
    """bool [n, H, W]: blobs, lines and single pixels."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((int(rng.integers(1, 9)), H, W), dtype=bool)
    for mask in masks:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(H), rng.integers(W)
            mask[y : y + rng.integers(1, 25), x : x + rng.integers(1, 25)] = True
    return masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")

    def sample(n: int) -> ShardSample:
        stream = io.BytesIO()
        Image.new("RGB", (W, H), (n, n, n)).save(stream, "JPEG")
        annotations = annotate_masks(draw(n), first_id=1000 * n, predicted_iou=0.8 + n / 1000)
        return ShardSample(
            image_id=n, jpeg=stream.getvalue(), width=W, height=H, annotations=annotations
        )

    write_shards(map(sample, range(1, 101)), out, samples_per_shard=70)
    return out


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_centre_and_hull_are_those_of_scipy(seed: int) -> None:
    masks = draw(seed)
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    runs = rle.parse([e["counts"] for e in encoded], height=H, width=W)
    found = np.zeros((len(masks), 3))
    every = np.arange(len(masks), dtype=np.int64)
    stats_kernels.shapes(runs.ends, runs.starts, H, runs.extents, every, found)
    for mask, (x, y, hull) in zip(masks, found, strict=True):
        rows, columns = np.nonzero(mask)
        corners = [np.stack([columns + i, rows + j], 1) for i in (0, 1) for j in (0, 1)]
        assert hull == pytest.approx(ConvexHull(np.concatenate(corners)).volume)
        middle = center_of_mass(mask)
        assert (y - 0.5, x - 0.5) == pytest.approx(middle)


def test_figures_are_those_of_the_masks(folder: Path) -> None:
    total = measure(sorted(map(str, folder.glob("*.tar"))))
    drawn = [draw(n) for n in range(1, 101)]
    masks = np.concatenate(drawn)
    sizes = np.sqrt(masks.mean((1, 2)))
    relative = total.quantities["relative_size"]
    assert (total.images, total.masks, total.bad_masks) == (100, len(masks), 0)
    assert relative.total == pytest.approx(sizes.sum())
    assert (relative.low, relative.high) == pytest.approx((sizes.min(), sizes.max()))
    expected, _ = np.histogram(sizes, AXES["relative_size"].edges)
    assert np.abs(np.cumsum(relative.bins - expected)).max() <= 2  # a value on an edge
    per_image = np.bincount([len(m) for m in drawn], minlength=1001)
    assert total.quantities["masks_per_image"].bins.tolist() == per_image.tolist()
    assert total.quantities["width"].bins[W // 25] == 100
    iou = [0.8 + n / 1000 for n in range(1, 101) for _ in drawn[n - 1]]
    assert total.quantities["predicted_iou"].total == pytest.approx(sum(iou))
    cells = np.zeros_like(total.centres)
    for mask in masks:
        y, x = center_of_mass(mask)
        cells[int((y + 0.5) / H * 64), int((x + 0.5) / W * 64)] += 1
    assert np.abs(np.cumsum(total.centres - cells)).max() <= 2
    assert total.centres.sum() == len(masks)


def test_neither_processes_nor_kept_parts_change_a_figure(folder: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, folder.glob("*.tar")))

    def plain(total: Any) -> dict[str, list[float]]:
        return {name: array.tolist() for name, array in total.arrays().items()}

    alone = plain(measure(paths))
    assert plain(measure(paths, workers=1, parts=tmp_path)) == alone
    assert plain(measure(paths, parts=tmp_path)) == alone
    # That they are taken is seen where one of them is replaced by the other.
    one, two = sorted(tmp_path.glob("*.npz"))
    one.unlink()
    two.write_bytes(b"damaged")
    assert plain(measure(paths, parts=tmp_path)) == alone


def test_the_command_writes_json_and_plots(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    broken = tmp_path / "broken.tar"
    broken.write_bytes((folder / "sa_000001.tar").read_bytes()[:4000])
    arguments = [str(folder), str(broken), "--out", str(out), "--workers", "0"]
    assert main([*arguments, "--dry-run"]) == 0
    assert not out.exists()
    assert main(arguments) == 0
    assert "1 bad shard" in capsys.readouterr().out
    written = json.loads((out / "stats.json").read_text())
    assert written["shards"] == 3
    images = written["images"]
    assert 100 <= images <= 102
    assert sum(written["quantities"]["concavity"]["histogram"]["counts"]) == written["masks"]
    for name in ("fig5_centres.png", "fig6_masks.png", "images.png", "scores.png"):
        assert Image.open(out / name).size > (300, 300)
    assert main([str(broken), "--out", str(tmp_path / "x"), "--workers", "0"]) in {0, 2}
    assert main([str(tmp_path / "none"), "--out", str(out)]) == 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 2), min_size=1, max_size=300), st.integers(1, 99))
def test_percentiles_are_exact_to_a_bin(values: list[float], percent: int) -> None:
    axis = Axis(-1, 2, 300)
    quantity = Quantity(np.zeros(300, np.int64))
    quantity.add(np.array(values), axis)
    found = percentile(quantity, axis, percent)
    near = [np.percentile(values, percent, method=m) for m in ("lower", "higher")]
    below = np.percentile(values, percent, method="inverted_cdf")
    assert min(*near, below) - 0.0101 <= found <= max(*near, below) + 0.0101


def test_plots_lose_no_value() -> None:
    bins = np.zeros(1001, dtype=np.int64)
    bins[[0, 40, 90, 91, 1000]] = [1, 5000, 4000, 3000, 1]
    edges, heights = shown_bins(bins, AXES["masks_per_image"].edges, whole_axis=False)
    assert heights.sum() == bins.sum()
    assert len(heights) <= 50
    assert edges[0] < 40
    assert 91 < edges[-1] < 200
    cells = np.random.default_rng(0).integers(0, 5, (64, 64))
    coarse = coarsened(cells)
    assert coarse.shape == (16, 16)
    assert coarse[1, 2] == cells[4:8, 8:12].sum()
