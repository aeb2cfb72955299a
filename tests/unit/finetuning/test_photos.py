"""Tiles, slices and deep photos are opened as `fit` opens them, and a case is on one side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_train.data.datamodule import SamDataModule
from sam_train.finetuning.cases import cases_in, read_cases, write_cases
from sam_train.finetuning.measure import case_groups
from sam_train.finetuning.photos import held_out_photos, training_photos, window_of
from sam_train.finetuning.split import split, write_lists
from sam_train.model.config import photo_rule
from sam_train.settings.compose import load_config


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two 16-bit tiles of each of four slides, with an object in every corner."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    draw = np.random.default_rng(3)
    for k in range(8):
        name = f"slide{k // 2}_tile_{k % 2}.png"
        deep = draw.integers(200, 4000, (100, 100)).astype(np.uint16)
        Image.fromarray(deep).save(folder / "images" / name)
        labels = np.zeros((100, 100), np.uint8)
        labels[8:30, 8:30], labels[70:92, 70:92], labels[8:30, 70:92] = 1, 2, 3
        Image.fromarray(labels).save(folder / "masks" / name)
    return folder


def test_the_window_is_the_one_that_fit_would_find(slides: Path) -> None:
    cfg = load_config([f"data.train=masks:{slides}"])
    data = SamDataModule(cfg.data, image_size=128, grid_size=32, seed=0)
    window = window_of(cfg, training_photos(cfg))
    assert window == data.find_window()
    assert 200 <= window[0] < 400
    assert 3800 < window[1] <= 4000
    for word in ("model.window=[0,9]", "data.window=photo"):
        other = load_config([f"data.train=masks:{slides}", word])
        assert window_of(other, training_photos(other)) == []
    # With the window among the settings, photos are opened by it.
    cfg.model.window = window
    assert all(part.photos == photo_rule(cfg.model) for part in training_photos(cfg).parts)  # type: ignore[attr-defined]


def test_tiles_of_tiles_are_one_case_and_intervals_resample_it(
    slides: Path, tmp_path: Path
) -> None:
    cfg = load_config([f"data.train=masks:{slides}", "data.tile=64"])
    photos = training_photos(cfg)
    assert len(photos) > 20
    cases = cases_in(photos, digests={})
    assert len(set(cases.values())) == 4
    sides = split(list(cases), cases=cases)
    held_out, trained_on = (
        {name.partition("_tile_")[0] for name in side} for side in (sides.val, sides.train)
    )
    assert len(held_out) == 1
    assert not held_out & trained_on
    # The lists name tiles, as `fit` will look for them; and here two slides are held out.
    one = next(iter(sides.train)).partition("_tile_")[0]
    more = {name: case for name, case in cases.items() if one in name or name in sides.val}
    _, listed = write_lists(sides, tmp_path)
    cfg.data.val, cfg.data.val_include = cfg.data.train, str(listed)
    opened = held_out_photos(cfg)
    assert [opened.key(k) for k in range(len(opened))] == sides.val
    write_cases(more, tmp_path)
    cfg.data.val_include = ""
    groups = case_groups(cfg, read_cases(tmp_path))
    assert len(groups) == len(more)
    assert len(set(groups.values())) == 2
    # A photo each: nothing is grouped.
    assert case_groups(cfg, {"a": "1", "b": "2"}) == {}


def test_no_volume_stands_on_both_sides(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    draw = np.random.default_rng(4)
    labels = np.zeros((30, 40, 6), np.uint8)
    labels[5:20, 8:25, 1:5] = 1
    for k in range(5):
        for folder, name, values in (
            # Names that as names of photos would be parts of one thing.
            ("imagesTr", f"scan_t{k}_0000", draw.integers(-1000, 1000, labels.shape)),
            ("labelsTr", f"scan_t{k}", labels),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = nib.Nifti1Image(values.astype(np.int16), np.diag([1, 1, 5, 1.0]))
            nib.save(image, tmp_path / folder / f"{name}.nii.gz")
    cfg = load_config([f"data.train=nifti:{tmp_path}"])
    photos = training_photos(cfg)
    cases = cases_in(photos, digests={})
    assert len(cases) == 20
    assert len(set(cases.values())) == 5
    sides = split(list(cases), cases=cases)
    ids = [{name.partition("scan_t")[2][0] for name in side} for side in (sides.val, sides.train)]
    assert not ids[0] & ids[1]
    # What cannot be used is on no side.
    first = photos.key(0)
    assert first not in cases_in(photos, digests={}, without={first})
