"""Windows of photos, against pycocotools' bitmaps that numpy crops and samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam_train.data.config import DataConfig, check
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.feed.order import Order
from sam_train.data.sample.dataset import TrainDataset, draw_sample
from sam_train.data.sample.decode import as_rle
from sam_train.data.sample.jitter import draw_frame, jittered
from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame, Window

S, R = 32, 16
FRAMES = [
    InputFrame(original=(30, 44), side=S, scale=scale, offset=offset)
    for scale, offset in [(0.3, (0, 0)), (1.0, (0, 0)), (1.5, (1, 7)), (2.0, (11, 32))]
] + [InputFrame(original=(9, 5), side=S, scale=2.0, offset=(5, 3))]


def scenes(path: Path, jitter: list[float], *, cache: bool = False) -> Scenes:
    shards = open_shards(str(path), option="data.train")
    skips = Skips(workers=0, max_fraction=1.0)
    return Scenes(
        shards,
        image_size=S,
        max_area_fraction=0.9,
        skips=skips,
        cache=cache,
        scale_jitter=jitter,
    )


def bitmaps(scene: Scene) -> npt.NDArray[np.uint8]:
    height, width = scene.frame.original
    count = len(scene.masks.offsets) - 1
    rles = [as_rle(scene.masks, k, height=height, width=width) for k in range(count)]
    return np.stack([coco.decode(r) for r in rles])


@pytest.mark.parametrize("seed", range(4))
def test_a_cropped_rle_is_that_of_the_cropped_bitmap(make: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = make.ellipses(12, height=30, width=44, seed=seed)
    masks[0], masks[1], masks[2] = 1, 0, rng.integers(0, 2, (30, 44))
    counts = [coco.encode(np.asfortranarray(m))["counts"] for m in masks]
    runs = rle.parse([*counts, b"!"], height=30, width=44)
    windows = [Window(top=0, left=0, bottom=30, right=44), Window(top=4, left=9, bottom=4, right=9)]
    for _ in range(20):
        (top, bottom), (left, right) = (
            np.sort(rng.integers(0, 31, 2)),
            np.sort(rng.integers(0, 45, 2)),
        )
        windows.append(Window(top=top, left=left, bottom=bottom, right=right))
    for window in windows:
        cut = masks[:, window.top : window.bottom, window.left : window.right]
        cropped = rle.crop(runs, window)
        assert cropped.areas[:-1].tolist() == cut.sum((1, 2)).tolist()
        assert cropped.status[-1] != 0
        assert cropped.starts[-1] == cropped.starts[-2]
        if cut[0].size == 0:
            continue
        # The canonical runs, extents and all, are those of the string that pycocotools writes.
        again = [coco.encode(np.asfortranarray(m))["counts"] for m in cut]
        expected = rle.parse(again, height=window.shape[0], width=window.shape[1])
        assert np.array_equal(cropped.ends, expected.ends)
        assert np.array_equal(cropped.starts[:-1], expected.starts)
        assert np.array_equal(cropped.extents[:-1], expected.extents)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_window_holds_the_pixels_whose_centres_are_seen(frame: InputFrame) -> None:
    window = frame.window
    for axis, (first, stop) in enumerate(
        [(window.top, window.bottom), (window.left, window.right)]
    ):
        scale = Fraction(frame.scaled[axis], frame.original[axis])
        begin, end = frame.offset[axis], frame.offset[axis] + frame.size[axis]
        centres = [(Fraction(1, 2) + y) * scale for y in range(frame.original[axis])]
        seen = [y for y, centre in enumerate(centres) if begin <= centre < end]
        assert seen == list(range(first, stop))


@pytest.mark.parametrize("frame", FRAMES)
def test_the_grid_samples_the_scaled_and_cropped_bitmap(frame: InputFrame, make: Any) -> None:
    """Each cell shows the photo's pixel under its centre; cells in the padding show nothing."""
    masks = make.ellipses(5, height=frame.original[0], width=frame.original[1], seed=3)
    counts = [coco.encode(np.asfortranarray(m))["counts"] for m in masks]
    runs = rle.parse(counts, height=frame.original[0], width=frame.original[1])
    got = rle.rasterise(
        runs,
        np.arange(5),
        rows=frame.cell_rows(R),
        columns=frame.cell_columns(R),
        cells=R,
    )
    expected = np.zeros((5, R, R), dtype=np.uint8)
    for i in range(R):
        for j in range(R):
            centre = [Fraction(S * (2 * k + 1), 2 * R) for k in (i, j)]
            if all(c < size for c, size in zip(centre, frame.size, strict=True)):
                y, x = (
                    int((c + cut) * length / scaled)
                    for c, cut, length, scaled in zip(
                        centre, frame.offset, frame.original, frame.scaled, strict=True
                    )
                )
                expected[:, i, j] = masks[:, y, x]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_image_is_the_window_of_the_scaled_photo(frame: InputFrame, make: Any) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (*frame.original, 3), dtype=np.uint8))
    height, width = frame.scaled
    whole = np.array(photo.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    (top, left), (h, w) = frame.offset, frame.size
    image = frame.resize(photo)
    assert image.shape == (h, w, 3)
    assert abs(image - whole[top : top + h, left : left + w]).max() <= 1


def test_points_and_boxes_are_those_of_the_window(shard: Callable[..., Path]) -> None:
    source = scenes(shard(3), [0.3, 2.0])
    cut_masks = small_masks = 0
    for index in range(3):
        for epoch in range(20):
            scene = source.get(index, draw_key=(0, epoch, index))
            frame, window = scene.frame, scene.frame.window
            sample = draw_sample(
                scene, key="", position=0, draw_key=(0, epoch, index), limit=None, grid_size=R
            )
            assert sample.image.shape == (*frame.size, 3)
            whole = bitmaps(scene)
            cut = whole[:, window.top : window.bottom, window.left : window.right]
            areas = cut.sum((1, 2))
            fits = (areas > 0) & (areas <= 0.9 * cut[0].size)
            assert scene.usable.tolist() == np.flatnonzero(fits).tolist()
            scale = np.divide(frame.scaled, frame.original)[::-1]
            offset = np.array(frame.offset[::-1])
            rows, columns = frame.cell_rows(R), frame.cell_columns(R)
            grid = rle.rasterise(
                scene.masks.runs, scene.usable, rows=rows, columns=columns, cells=R
            )
            drawn = scene.usable[grid.any((1, 2))]
            assert sample.without_cell == len(scene.usable) - len(drawn)
            assert np.array_equal(sample.masks, grid[grid.any((1, 2))])
            small_masks += sample.without_cell
            for k, mask in enumerate(drawn):
                point, box = sample.points[k], sample.boxes[k].reshape(2, 2)
                assert (point >= -0.5).all()
                assert (point < np.array(frame.size[::-1]) - 0.5).all()
                x, y = np.rint((point + offset + 0.5) / scale - 0.5).astype(int)
                assert whole[mask, y, x] == 1
                rows, columns = np.nonzero(cut[mask])
                corners = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
                corners += [window.left, window.top]
                assert np.allclose(box, (corners + 0.5) * scale - 0.5 - offset, atol=1e-4)
                cut_masks += areas[mask] < whole[mask].sum()
    assert cut_masks > 50
    assert small_masks > 10


def test_first_points_are_uniform_over_the_part_inside(tmp_path: Path, make: Any) -> None:
    mask = np.zeros((1, 30, 44), dtype=np.uint8)
    mask[0, 10:12, 2:4], mask[0, 25:, 30:] = 1, 1
    files = [("sa_0.jpg", make.photo(30, 44, seed=0)), ("sa_0.json", make.record(0, mask))]
    source = scenes(make.pack(tmp_path / "a.tar", files), [1.0, 1.0])
    whole = source.get(0, draw_key=(0, 0, 0))
    # Half of the photo's columns and the upper part: only the four pixels of the first patch.
    frame = InputFrame(original=(30, 44), side=S, scale=2.0, offset=(0, 0))
    runs = rle.crop(whole.masks.runs, frame.window)
    assert runs.areas.tolist() == [4]
    scene = dataclasses.replace(whole, frame=frame, runs=runs)
    n = 4000
    points = np.concatenate(
        [
            draw_sample(
                scene, key="", position=p, draw_key=(0, p, 0), limit=None, grid_size=R
            ).points
            for p in range(n)
        ]
    )
    _, counts = np.unique(points, axis=0, return_counts=True)
    assert len(counts) == 4
    assert ((counts - n / 4) ** 2 / (n / 4)).sum() < 16.3  # 0.1 %, 3 degrees of freedom


def test_a_window_without_masks_is_drawn_again_then_the_whole_photo(
    tmp_path: Path, make: Any
) -> None:
    mask = np.zeros((1, 30, 44), dtype=np.uint8)
    mask[0, 0, 0] = 1
    files = [("sa_0.jpg", make.photo(30, 44, seed=0)), ("sa_0.json", make.record(0, mask))]
    source = scenes(make.pack(tmp_path / "a.tar", files), [2.0, 2.0])
    drawn = [source.get(0, draw_key=(0, epoch, 0)) for epoch in range(400)]
    assert all(len(scene.usable) == 1 and scene.runs.areas.tolist() == [1] for scene in drawn)
    scales = {scene.frame.scale for scene in drawn}
    assert scales == {1.0, 2.0}


def test_scale_and_place_are_uniform() -> None:
    whole = InputFrame(original=(1500, 2250), side=1024)
    frames = [draw_frame(whole, [0.1, 2.0], draw_key=(0, k, 0, 0)) for k in range(4000)]
    scales = np.array([frame.scale for frame in frames])
    assert scales.min() >= 0.1
    assert scales.max() < 2.0
    # Kolmogorov-Smirnov at 0.1 %: 1.95 / sqrt(n).
    for values in [
        (np.sort(scales) - 0.1) / 1.9,
        *(
            np.sort(
                [
                    (f.offset[axis] + 0.5) / (f.scaled[axis] - f.size[axis] + 1)
                    for f in frames
                    if f.scaled[axis] > f.size[axis] + 50
                ]
            )
            for axis in (0, 1)
        ),
    ]:
        steps = np.arange(1, len(values) + 1) / len(values)
        assert abs(values - steps).max() < 1.95 / np.sqrt(len(values))
    inside = [
        0 <= cut <= scaled - size
        for f in frames
        for cut, scaled, size in zip(f.offset, f.scaled, f.size, strict=True)
    ]
    assert all(inside)


def test_a_window_is_a_pure_function_of_the_position(shard: Callable[..., Path]) -> None:
    path = shard(4)

    def dataset(*, cache: bool) -> TrainDataset:
        order = Order(samples=4, seed=5)
        source = scenes(path, [0.1, 2.0], cache=cache)
        return TrainDataset(source, order=order, masks_per_image=3, grid_size=R)

    forwards, backwards = dataset(cache=False), dataset(cache=True)
    samples = [forwards.sample(p) for p in range(12)]
    for sample in reversed(samples):
        again = backwards.sample(sample.position)
        for field in ("image", "masks", "points", "boxes", "mask_ids"):
            assert np.array_equal(getattr(again, field), getattr(sample, field)), field
    assert len({sample.image.shape for sample in samples}) > 4
    assert max(max(sample.image.shape) for sample in samples) == S


def test_the_limit_keeps_the_first_samples(shard: Callable[..., Path]) -> None:
    cfg = DataConfig(train=str(shard(5)), batch_size=4, masks_per_image=9, limit=2, workers=0)
    check(cfg)
    shards = open_shards(cfg.train, option="data.train")
    skips = Skips(workers=0, max_fraction=1)
    loader = make_train_loader(shards, cfg, image_size=S, grid_size=R, seed=1, skips=skips)
    batch = next(iter(loader))
    assert sorted(batch.keys) == [f"sa_000000.tar/sa_{k}" for k in (0, 0, 1, 1)]


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"scale_jitter": [1.0]}, {"scale_jitter": [2.0, 1.0]}]
)
def test_settings_that_mean_nothing_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))}="):
        check(DataConfig(**wrong))


def test_a_jittered_scene_keeps_the_cached_one_whole(shard: Callable[..., Path]) -> None:
    source = scenes(shard(1), [2.0, 2.0], cache=True)
    first = source.get(0, draw_key=(0, 0, 0))
    assert first.image.shape == (S, S, 3)
    whole = source._whole(0)
    assert whole.image.shape == (30, 44, 3)
    again = jittered(whole, [2.0, 2.0], max_area_fraction=0.9, draw_key=(0, 0, 0))
    assert np.array_equal(again.image, first.image)
