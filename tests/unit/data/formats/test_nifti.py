"""Slices of NIfTI volumes against numpy's own slicing of what nibabel wrote."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.formats.look import look_at
from sam_train.data.formats.spec import list_records, read_specs
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.jpeg import read_shown
from sam_train.data.photos.rule import rule_of
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError

nib = pytest.importorskip("nibabel")

SHAPE = (30, 40, 6)


def write(path: Path, values: np.ndarray[Any, Any], zooms: tuple[float, ...] = (1, 1, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([*zooms, 1.0]))
    nib.save(image, path)


def volume(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def labels() -> np.ndarray[Any, Any]:
    """Two labels in slices 1 to 3 along z, one of them in two pieces; none elsewhere."""
    found = np.zeros(SHAPE, np.uint8)
    found[5:12, 8:20, 1:4] = 1
    found[20:26, 5:10, 2] = found[20:26, 30:36, 2] = 2
    return found


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    folder = tmp_path / "Task01"
    for k in range(2):
        write(folder / "imagesTr" / f"case_{k}_0000.nii.gz", volume(k))
        write(folder / "imagesTr" / f"case_{k}_0001.nii.gz", volume(10 + k))
        write(folder / "labelsTr" / f"case_{k}.nii.gz", labels())
    return folder


def records(text: Any) -> Any:
    return list_records(read_specs(text)[0])


def bitmap(segmentation: Any) -> np.ndarray[Any, Any]:
    counts = segmentation["counts"].encode()
    return np.asarray(coco_mask.decode({"size": segmentation["size"], "counts": counts}), bool)


def test_slices_are_those_of_the_array(nnunet: Path) -> None:
    listing = records(f"nifti:{nnunet}")
    assert [r.name for r in listing.records] == [
        f"case_{k}_0000_z00{n}.nii.gz" for k in range(2) for n in (2, 3, 4)
    ]
    assert [r.group() for r in listing.records] == ["case_0"] * 3 + ["case_1"] * 3
    assert listing.notes == ["6 slices without a label are not taken"]
    for record in listing.records:
        case, z = int(record.case[-1]), int(record.name[-8]) - 1
        shown = read_shown(record.image, rule=rule_of([-160, 240])).pixels[..., 1]
        expected = np.clip((volume(case)[:, :, z].T + 160.0) / 400 * 255, 0, 255)
        assert shown.shape == (SHAPE[1], SHAPE[0])
        assert np.abs(shown - expected).max() <= 0.51
        masks = record.masks().masks
        assert len(masks) == (2 if z == 2 else 1)
        for label, mask in enumerate(masks, start=1):
            assert np.array_equal(bitmap(mask.segmentation), label == labels()[:, :, z].T)


def test_another_axis_channel_and_regions(nnunet: Path) -> None:
    entry = {"reader": "nifti", "path": str(nnunet), "axis": "x", "channel": "0001", "regions": 8}
    listing = records([entry])
    first = listing.records[0]
    assert first.name == "case_0_0001_x006.nii.gz"
    shown = read_shown(first.image, rule=rule_of([-1000, 1000])).pixels[..., 0]
    expected = (volume(10)[5].T + 1000.0) / 2000 * 255
    assert np.abs(shown - expected).max() <= 0.51
    pieces = next(r for r in listing.records if "_x022" in r.name).masks().masks
    assert len(pieces) == 2
    both = sum(bitmap(mask.segmentation).astype(int) for mask in pieces)
    assert np.array_equal(both, labels()[21].T > 0)


def test_pairs_of_one_folder_a_case(tmp_path: Path) -> None:
    """BraTS' layout; the coarse axis is the first, and scaled values are those of nibabel."""
    for k in range(2):
        case = tmp_path / f"b{k}" / f"b{k}"
        image = nib.Nifti1Image(volume(k), np.diag([3.0, 1.0, 1.0, 1.0]))
        image.header.set_slope_inter(0.5, 7.0)
        case.parent.mkdir()
        nib.save(image, f"{case}_flair.nii.gz")
        write(Path(f"{case}_seg.nii"), labels())
    found = look_at(tmp_path)
    assert found is not None
    assert found.format == "nifti"
    listing = records(f"nifti:{tmp_path}")
    assert len(listing.records) == 2 * (7 + 6)
    record = listing.records[0]
    assert record.group() == "b0/b0"
    assert record.name == "b0/b0_flair_x006.nii.gz"
    values = nib.load(tmp_path / "b0" / "b0_flair.nii.gz").get_fdata()[5].T
    shown = read_shown(record.image, rule=rule_of([-400, 400])).pixels[..., 0]
    assert np.abs(shown - np.clip((values + 400) / 800 * 255, 0, 255)).max() <= 0.51


def test_training_on_slices_by_one_window(nnunet: Path) -> None:
    cfg = DataConfig(train=f"nifti:{nnunet}", val=f"nifti:{nnunet}", batch_size=2, workers=0)
    data = SamDataModule(cfg, image_size=40, grid_size=20, seed=0, accumulate=1)
    window = data.find_window()
    taken = np.concatenate([volume(k)[:, :, z].ravel() for k in range(2) for z in (1, 2, 3)])
    assert window == [
        np.percentile(taken, 0.5, method="higher"), np.percentile(taken, 99.5, method="lower"),
    ]  # fmt: skip
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(batch.keys) == 2
    assert set(data.val_groups().values()) == {"Task01/case_0", "Task01/case_1"}


def test_bands_of_four_dimensions(tmp_path: Path) -> None:
    stack = np.stack([volume(0), volume(1)], axis=-1)
    write(tmp_path / "images" / "a.nii.gz", stack)
    write(tmp_path / "labels" / "a.nii.gz", labels())
    record = records(f"nifti:{tmp_path}").records[0]
    shown = read_shown(record.image, rule=rule_of([-1000, 1000])).pixels
    expected = (stack[:, :, 1].transpose(1, 0, 2) + 1000.0) / 2000 * 255
    assert np.abs(shown[..., :2] - expected).max() <= 0.51


def test_what_is_broken_is_counted(
    nnunet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, truth = nnunet / "imagesTr", nnunet / "labelsTr"
    write(images / "other_0000.nii.gz", volume(3))
    write(truth / "other.nii.gz", labels()[:, :, :5])
    whole = (images / "case_0_0000.nii.gz").read_bytes()
    (images / "cut_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    write(truth / "cut.nii.gz", labels())
    (images / "text_0000.nii.gz").write_text("no volume")
    write(truth / "text.nii.gz", labels())
    write(images / "half_0000.nii.gz", volume(4))
    halves = labels().astype(np.float32)
    halves[6, 9, 2] = 1.5
    write(truth / "half.nii.gz", halves)
    write(images / "alone_0000.nii.gz", volume(4))
    write(truth / "only.nii.gz", labels())
    write(images / "nothing_0000.nii.gz", volume(4))
    write(truth / "nothing.nii.gz", np.zeros(SHAPE, np.uint8))
    with caplog.at_level(logging.INFO):
        shards = open_shards(f"nifti:{nnunet}", option="data.train", formats=True)
    for line in (
        "label volume of another shape: other",
        "unreadable volume: text",
        "no label volume: alone",
        "label volume without an image: only.nii.gz",
        "18 slices without a label",
    ):
        assert line in caplog.text
    reasons = []
    for k in range(len(shards)):
        try:
            assert shards.read(k).pixels is not None
        except Exception as error:
            reasons.append(f"{shards.key(k)}: {error}")
    # The cut volume's three slices, and the one slice with half a label.
    assert len(reasons) == 4
    assert sum("unreadable volume" in reason for reason in reasons) == 3
    assert sum("not a label volume" in reason for reason in reasons) == 1


def test_constant_and_not_finite_volumes(tmp_path: Path) -> None:
    values = np.full(SHAPE, np.nan, np.float32)
    values[:, :, 1] = 5
    values[3, 3, 1], values[4, 4, 1] = np.inf, -np.inf
    write(tmp_path / "images" / "a.nii.gz", values)
    write(tmp_path / "labels" / "a.nii.gz", labels())
    cfg = DataConfig(train=f"nifti:{tmp_path}", workers=0)
    data = SamDataModule(cfg, image_size=40, grid_size=20, seed=0, accumulate=1)
    assert data.find_window() == [5.0, 5.0]
    shards = open_shards(f"nifti:{tmp_path}", option="data.train", formats=True)
    assert all(not shards.read(k).pixels.any() for k in range(3))  # type: ignore[union-attr]


def test_names_beyond_the_volume(nnunet: Path) -> None:
    for name, reason in (("z007", "no such slice"), ("w002", "missing image")):
        with pytest.raises(SkipImageError, match=reason):
            read_shown(nnunet / "imagesTr" / f"case_0_0000_{name}.nii.gz")


def test_without_the_reader_one_line_says_how(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r"pip install 'sam_train\[medical\]'"):
        records(f"nifti:{nnunet}")


def test_groups(nnunet: Path) -> None:
    shards = open_shards(f"nifti:{nnunet}", option="data.val", formats=True)
    assert len(set(groups_of(shards, samples=len(shards)).values())) == 2
