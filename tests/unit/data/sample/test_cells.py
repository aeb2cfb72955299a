"""No target is empty that is not empty in the photo, and what is left out for it is counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.order import STREAM_SUBSET, Order, hash64
from sam_train.data.sample import select
from sam_train.data.sample.cells import any_with_cell, cell_side, with_cell
from sam_train.data.sample.dataset import TrainDataset, ValDataset, draw_sample
from sam_train.data.sample.jitter import draw_frame
from sam_train.data.sample.scenes import Scenes
from sam_train.data.sample.survey import Grid, survey
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame

Bitmaps = npt.NDArray[np.uint8]


def runs_of(masks: Bitmaps) -> rle.Runs:
    counts = [coco.encode(np.asfortranarray(mask))["counts"] for mask in masks]
    return rle.parse(counts, height=masks.shape[1], width=masks.shape[2])


def dots(number: int, *, seed: int, least: int = 1, most: int) -> Bitmaps:
    """Rectangles with sides of `least` to `most` pixels, anywhere in 128 x 128."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((number, 128, 128), dtype=np.uint8)
    for mask in masks:
        (y, x), (height, width) = rng.integers(128 - most, size=2), rng.integers(least, most, 2) + 1
        mask[y : y + height, x : x + width] = 1
    return masks


def shown(masks: Bitmaps, frame: InputFrame, cells: int) -> npt.NDArray[np.bool_]:
    """Which masks are not empty once Pillow has sampled them at the cells' centres."""
    height, width = (-(-cells * length // frame.side) for length in frame.size)
    scale = frame.side / cells / np.array(frame.scaled) * np.array(masks.shape[1:])
    found = []
    for mask in masks:
        small = Image.fromarray(mask).transform(
            (width, height),
            Image.Transform.AFFINE,
            (scale[1], 0, 0, 0, scale[0], 0),
            Image.Resampling.NEAREST,
        )
        found.append(bool(np.asarray(small).any()))
    return np.array(found)


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([4, 7, 16]),
    st.integers(0, 2**32),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_mask_has_a_cell_exactly_where_its_grid_is_not_empty(
    shape: tuple[int, int], cells: int, seed: int, area: bool, window: bool
) -> None:
    rng, (height, width) = np.random.default_rng(seed), shape
    masks = [rng.random(shape) < p for p in (0, 0.01, 0.1, 0.4, 0.5, 0.9, 1)]
    for _ in range(12):
        mask = np.zeros(shape, dtype=bool)
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
        masks.append(mask)
    runs = runs_of(np.array(masks, dtype=np.uint8))
    frame = InputFrame(original=(height, width), side=32)
    if window:
        frame = draw_frame(frame, [0.1, 2.0], draw_key=(seed,))
    which = rng.permutation(len(masks)).astype(np.int64)
    if area:
        edges = {"rows": frame.row_edges(cells), "columns": frame.column_edges(cells)}
        grid = rle.rasterise_area(runs, which, cells=cells, **edges)
    else:
        starts = {"rows": frame.cell_rows(cells), "columns": frame.cell_columns(cells)}
        grid = rle.rasterise(runs, which, cells=cells, **starts)
    expected = grid.any((1, 2))
    assert with_cell(runs, which, frame, cells=cells, area=area).tolist() == expected.tolist()
    assert any_with_cell(runs, which, frame, cells=cells, area=area) == expected.any()


def scene_of(tmp_path: Path, make: Any, masks: Bitmaps, **options: Any) -> tuple[Scenes, Skips]:
    height, width = masks.shape[1:]
    files = [("sa_0.jpg", make.photo(height, width, seed=0)), ("sa_0.json", make.record(0, masks))]
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    skips = Skips(workers=0, max_fraction=1.0)
    return Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips, **options), skips


@pytest.mark.parametrize("sampling", ["nearest", "area"])
def test_others_are_drawn_in_place_of_masks_without_a_cell(
    tmp_path: Path, make: Any, sampling: str
) -> None:
    """Cells of 8 photo pixels; squares of up to 12, which a cell sees or not."""
    masks = dots(60, seed=1, most=12)
    scenes, skips = scene_of(tmp_path, make, masks, mask_sampling=sampling)
    scene = scenes.get(0, draw_key=(0, 0, 0))
    sees = with_cell(scene.runs, scene.usable, scene.frame, cells=16, area=sampling == "area")
    if sampling == "nearest":
        assert sees.tolist() == shown(masks, scene.frame, 16).tolist()
    assert 10 < sees.sum() < 50
    train = TrainDataset(scenes, order=Order(samples=1, seed=3), masks_per_image=8, grid_size=16)
    plain = 0
    for position in range(40):
        sample = train.sample(position)
        assert sample.masks.any((1, 2)).all()
        assert len(sample.masks) == 8
        assert sample.without_cell == (~sees).sum()
        # Where every mask of the plain draw has a cell, that draw is what comes out.
        key = hash64(3, STREAM_SUBSET, position, 0)
        drawn = select.draw(scene.usable, limit=8, key=key)
        if sees[drawn].all():
            plain += 1
            boxes = scene.frame.map_points(scene.runs.extents[drawn].reshape(-1, 2, 2))
            assert np.array_equal(sample.boxes, boxes.reshape(-1, 4))
    few = TrainDataset(scenes, order=Order(samples=1, seed=3), masks_per_image=1, grid_size=16)
    assert all(few.sample(p).masks.any() for p in range(40))
    assert skips.totals() == {"small_mask": 80 * int((~sees).sum())}


def test_the_draw_is_the_plain_one_where_every_mask_has_a_cell(tmp_path: Path, make: Any) -> None:
    masks = make.ellipses(40, height=96, width=96, seed=5)
    masks = masks[masks.sum((1, 2)) > 150]
    scenes, skips = scene_of(tmp_path, make, masks)
    scene = scenes.get(0, draw_key=(0, 0, 0))
    for epoch in range(20):
        key = (9, epoch, 0)
        sample = draw_sample(scene, key="", position=0, draw_key=key, limit=5, grid_size=16)
        chosen = select.draw(scene.usable, limit=5, key=hash64(9, STREAM_SUBSET, epoch, 0))
        boxes = scene.frame.map_points(scene.runs.extents[chosen].reshape(-1, 2, 2))
        assert np.array_equal(sample.boxes, boxes.reshape(-1, 4))
        assert sample.without_cell == 0
    assert skips.totals() == {}


def test_a_photo_of_which_nothing_is_seen_is_counted_by_its_own_reason(
    tmp_path: Path, make: Any
) -> None:
    """One photo with a large object, one with single pixels between the cells' centres."""
    small = np.zeros((2, 64, 64), dtype=np.uint8)
    small[0, 3, 3] = small[1, 9, 9] = 1
    files = [*make.sample_files(1, height=64, width=64, masks=6)]
    files += [("sa_2.jpg", make.photo(64, 64, seed=2)), ("sa_2.json", make.record(2, small))]
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    for grid_size in (None, 16):  # refused when it is drawn, or before it is decoded
        skips = Skips(workers=0, max_fraction=1.0)
        scenes = Scenes(
            shards, image_size=32, max_area_fraction=0.9, skips=skips, grid_size=grid_size
        )
        order = Order(samples=2, seed=0)
        train = TrainDataset(scenes, order=order, masks_per_image=4, grid_size=16)
        assert {train.sample(p).key for p in range(6)} == {"a.tar/sa_1"}
        assert skips.totals()["no_cell"] >= 3
    # Held-out scores are of the photo's resolution: there both are real objects.
    skips = Skips(workers=0, max_fraction=1.0)
    scenes = Scenes(shards, image_size=32, max_area_fraction=0.9, skips=skips)
    sample = ValDataset(scenes, masks_per_image=None, grid_size=16)[1]
    assert sample is not None
    assert sample.rles is not None
    assert [coco.decode(each).sum() for each in sample.rles] == [1, 1]
    assert skips.totals() == {}


def test_too_many_such_photos_end_the_run_with_the_way_out() -> None:
    skips = Skips(workers=0, max_fraction=0.1)
    for k in range(100):
        skips.read()
        if k % 5 == 0:
            skips.add("no_cell", f"sa_{k}", index=k)
        skips.add("small_mask", f"sa_{k}", index=k, count=7)
    with pytest.raises(UserError, match=r"20 of 100 .*model\.image_size.*data_tools\.tile"):
        skips.check(last="sa_95")


def data_of(tmp_path: Path, make: Any, photos: list[Bitmaps], **settings: Any) -> SamDataModule:
    files = []
    for k, masks in enumerate(photos):
        height, width = masks.shape[1:]
        files.append((f"sa_{k}.jpg", make.photo(height, width, seed=k)))
        files.append((f"sa_{k}.json", make.record(k, masks)))
    path = str(make.pack(tmp_path / "a.tar", files))
    cfg = DataConfig(train=path, val=path, batch_size=1, workers=0, **settings)
    return SamDataModule(cfg, image_size=32, grid_size=8, seed=0)


def test_it_is_said_before_training_how_many_and_what_would_see_them(
    tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Against Pillow, at the input size and at the one that is named."""
    photos = [dots(50, seed=k, least=3, most=9) for k in range(3)]
    data = data_of(tmp_path, make, photos)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    frame = InputFrame(original=(128, 128), side=32)
    without = sum(int((~shown(masks, frame, 8)).sum()) for masks in photos)
    left = {}
    for factor in (2, 3, 4, 6, 8):
        larger = InputFrame(original=(128, 128), side=32 * factor)
        left[factor] = sum(int((~shown(masks, larger, 8 * factor)).sum()) for masks in photos)
    enough = next(factor for factor, n in left.items() if n <= 0.05 * without)
    train, val = (r.getMessage() for r in caplog.records if r.name.endswith("survey"))
    assert train.startswith(f"data.train: {without} of 150 objects are smaller than a cell")
    assert "16 photo pixels at model.image_size=32, data.mask_sampling=nearest" in train
    assert "looked at 3 of 3 photos" in train
    seen = 150 - left[enough]
    assert f"model.image_size={32 * enough} would see {seen} of 150" in train
    assert f"tiles of {128 // enough} photo pixels" in train
    assert val.startswith(f"data.val: {without} of 150 objects")
    assert "scored all the same" in val


def test_the_other_sampling_is_named_where_it_sees_more(tmp_path: Path, make: Any) -> None:
    """A line of one pixel through the cells' centres covers no cell by half."""
    line = np.zeros((1, 128, 128), dtype=np.uint8)
    line[0, 8, :] = 1
    data = data_of(tmp_path, make, [line, np.ones((1, 128, 128), np.uint8)], mask_sampling="area",
                   max_area_fraction=1.0)  # fmt: skip
    shards = open_shards(data.cfg.train, option="data.train")
    grid = Grid(image_size=32, cells=8, mask_sampling="area")
    found = survey(shards, samples=2, grid=grid, max_area_fraction=1.0)
    assert found is not None
    assert (found.objects, found.without, found.blind, found.other_sampling) == (2, 1, 1, 0)
    assert "data.mask_sampling=nearest would see 2 of 2" in found.way_out()


def test_nothing_but_unseen_objects_is_refused_before_the_first_step(
    tmp_path: Path, make: Any
) -> None:
    small = np.zeros((1, 128, 128), dtype=np.uint8)
    small[0, 3:6, 3:6] = 1
    data = data_of(tmp_path, make, [small])
    with pytest.raises(UserError, match=r"nothing to train on: .*1 of 1 objects.*image_size=64"):
        data.setup("fit")
    # What a larger scale of the jitter shows may be trained on.
    data_of(tmp_path, make, [small], scale_jitter=[0.5, 2.0]).setup("fit")


def test_a_survey_looks_at_a_bounded_number_of_photos_the_same_ones_each_time(
    tmp_path: Path, make: Any
) -> None:
    files = []
    for k in range(80):
        masks = np.zeros((2, 16, 16), dtype=np.uint8)
        masks[0, :9], masks[1, 0, 0] = 1, 1
        files.append((f"sa_{k}.jpg", make.photo(16, 16, seed=k)))
        files.append((f"sa_{k}.json", make.record(k, masks)))
    files[8] = ("sa_4.jpg", b"damaged")
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    grid = Grid(image_size=16, cells=4, mask_sampling="nearest")
    found = survey(shards, samples=80, grid=grid, max_area_fraction=0.9)
    assert found is not None
    assert (found.photos, found.of, found.objects, found.without) == (32, 80, 64, 32)
    assert found == survey(shards, samples=80, grid=grid, max_area_fraction=0.9)
    some = survey(shards, samples=6, grid=grid, max_area_fraction=0.9)
    assert some is not None
    assert (some.photos, some.of) == (5, 6)


def test_the_side_of_a_cell_in_photo_pixels() -> None:
    assert cell_side(InputFrame(original=(4000, 6000), side=1024), 256) == 6000 / 256
    assert cell_side(InputFrame(original=(40, 60), side=64, scale=2.0), 16) == 60 / 32
