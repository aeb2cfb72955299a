"""Slices of DICOM series, and masks of DICOM-SEG, against the arrays that pydicom wrote."""

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
from sam_train.data.photos.jpeg import read_shown
from sam_train.data.photos.rule import rule_of
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import pack_bits  # noqa: E402
from pydicom.uid import (  # noqa: E402
    CTImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

H, W, SLICES = 24, 32, 4


def uid(*parts: object) -> str:
    return ".".join(["1.2.826.0.1", *map(str, parts)])


def stored(patient: int, z: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(10 * patient + z).integers(0, 4000, (H, W)).astype(np.uint16)


def truth(z: int, segment: int) -> np.ndarray[Any, Any]:
    found = np.zeros((H, W), bool)
    # Segments overlap, which one label map could not say.
    found[4 + z : 16, 5 * segment : 20] = True
    return found


def base(kind: str, instance: str) -> Any:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, instance
    return data


def picture(data: Any, pixels: np.ndarray[Any, Any], *, bits: int) -> None:
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    data.PixelData = pixels.tobytes() if bits > 1 else pack_bits(pixels.astype(np.uint8))


def write_slice(folder: Path, patient: int, z: int, **more: Any) -> Path:
    data = base(CTImageStorage, uid(patient, z))
    data.Modality, data.PatientID, data.SeriesInstanceUID = "CT", f"P{patient}", uid(patient)
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 3 * z], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    picture(data, stored(patient, z), bits=16)
    for name, value in more.items():
        setattr(data, name, value)
    # Names run against the order in space, and one has no ending, as archives write them.
    path = folder / f"P{patient}" / (f"i{9 - z}.dcm" if z else "noending")
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_segmentation(path: Path, patient: int, slices: list[int], **more: Any) -> None:
    data = base(SegmentationStorage, uid(patient, 99))
    data.Modality, data.PatientID, data.SegmentationType = "SEG", f"P{patient}", "BINARY"
    data.SegmentSequence = []
    for number, label in ((1, "liver"), (2, "tumour")):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        data.SegmentSequence.append(segment)
    frames, data.PerFrameFunctionalGroupsSequence = [], []
    for segment in (1, 2):
        for z in slices:
            frames.append(truth(z, segment))
            group, numbers, derived, source = Dataset(), Dataset(), Dataset(), Dataset()
            numbers.ReferencedSegmentNumber = segment
            source.ReferencedSOPInstanceUID = uid(patient, z)
            derived.SourceImageSequence = [source]
            group.SegmentIdentificationSequence = [numbers]
            group.DerivationImageSequence = [derived]
            data.PerFrameFunctionalGroupsSequence.append(group)
    data.NumberOfFrames = len(frames)
    picture(data, np.stack(frames), bits=1)
    for name, value in more.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    for patient in (1, 2):
        for z in range(SLICES):
            write_slice(tmp_path, patient, z)
        write_segmentation(tmp_path / f"P{patient}" / "seg.dcm", patient, [0, 1, 2])
    return tmp_path


def bitmap(segmentation: Any) -> np.ndarray[Any, Any]:
    counts = segmentation["counts"].encode()
    return np.asarray(coco_mask.decode({"size": segmentation["size"], "counts": counts}), bool)


def test_slices_and_segments_are_those_written(series: Path) -> None:
    found = look_at(series)
    assert found is not None
    assert found.format == "dicom"
    listing = list_records(read_specs(f"dicom:{series}")[0])
    assert not listing.skips
    assert listing.notes == ["2 slices without a segment are not taken"]
    assert [r.name for r in listing.records] == [
        f"P{p}/{name}" for p in (1, 2) for name in ("noending", "i8.dcm", "i7.dcm")
    ]
    assert [r.group() for r in listing.records] == ["P1"] * 3 + ["P2"] * 3
    for k, record in enumerate(listing.records):
        patient, z = 1 + k // 3, k % 3
        shown = read_shown(record.image, rule=rule_of([-160, 240])).pixels[..., 0]
        expected = np.clip((stored(patient, z) - 1024.0 + 160) / 400 * 255, 0, 255)
        assert np.abs(shown - expected).max() <= 0.51
        masks = record.masks().masks
        assert [mask.name.split(": ")[1] for mask in masks] == [
            "segment 1 liver of seg.dcm", "segment 2 tumour of seg.dcm",
        ]  # fmt: skip
        for segment, mask in enumerate(masks, start=1):
            assert np.array_equal(bitmap(mask.segmentation), truth(z, segment))


def test_training_reads_them(series: Path, tmp_path: Path) -> None:
    cfg = DataConfig(
        train=f"dicom:{series}", val=f"dicom:{series}", batch_size=2, workers=0,
        disk_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    data = SamDataModule(cfg, image_size=32, grid_size=16, seed=0, accumulate=1)
    window = data.find_window()
    values = np.concatenate([stored(p, z).ravel() - 1024.0 for p in (1, 2) for z in range(3)])
    assert window[0] == np.percentile(values, 0.5, method="higher")
    data.setup("fit")
    assert len(next(iter(data.train_dataloader())).keys) == 2
    assert {group.rpartition("/")[2] for group in data.val_groups().values()} == {"P1", "P2"}


def test_inverted_compressed_padded_and_colour(tmp_path: Path) -> None:
    path = write_slice(tmp_path, 3, 1, PhotometricInterpretation="MONOCHROME1", BitsStored=12)
    shown = read_shown(path, rule=rule_of([-1024, 3071])).pixels[..., 0]
    assert np.abs(shown - (4095.0 - stored(3, 1)) / 4095 * 255).max() <= 0.51
    path = write_slice(tmp_path, 3, 2, PixelPaddingValue=int(stored(3, 2)[0, 0]))
    data = pydicom.dcmread(path)
    data.compress(RLELossless)
    data.save_as(path)
    shown = read_shown(path, rule=rule_of([-2000, 3000])).pixels[..., 0]
    # Padding is no value, and black; everything else is not.
    assert np.array_equal(shown == 0, stored(3, 2) == stored(3, 2)[0, 0])
    colours = np.random.default_rng(0).integers(0, 255, (H, W, 3)).astype(np.uint8)
    path = write_slice(
        tmp_path, 3, 3, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8,
        BitsStored=8, HighBit=7, PlanarConfiguration=0, PixelData=colours.tobytes(),
    )  # fmt: skip
    assert np.array_equal(read_shown(path).pixels, colours)


def test_frames_of_one_file(tmp_path: Path) -> None:
    stack = np.stack([stored(5, z) for z in range(3)])
    path = write_slice(tmp_path, 5, 1, NumberOfFrames=3, PixelData=stack.tobytes())
    page = path.with_name(f"{path.stem}_p002.dcm")
    shown = read_shown(page, rule=rule_of([-1024, 2976])).pixels[..., 0]
    assert np.abs(shown - np.clip(stack[1] / 4000 * 255, 0, 255)).max() <= 0.51


def test_what_is_broken_is_counted(series: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = series / "P1" / "i8.dcm"
    cut.write_bytes(cut.read_bytes()[:-200])
    (series / "P1" / "text.dcm").write_text("no DICOM")
    (series / "P2" / "i7.dcm").unlink()
    odd = {"PerFrameFunctionalGroupsSequence": [Dataset()]}
    write_segmentation(series / "P2" / "odd.dcm", 2, [0], **odd)
    with caplog.at_level(logging.INFO):
        shards = open_shards(f"dicom:{series}", option="data.train", formats=True)
    assert "its slice is missing: seg.dcm: segment 1 liver" in caplog.text
    assert "left out 1 image, unreadable image: text.dcm" in caplog.text
    assert "left out 1 image, unreadable DICOM header: odd.dcm" in caplog.text
    assert len(shards) == 5
    failed = []
    for k in range(len(shards)):
        try:
            shards.read(k)
        except Exception as error:
            failed.append(f"{shards.key(k)}: {error}")
    assert len(failed) == 1
    assert "P1/i8.dcm: unreadable image" in failed[0]


def test_without_the_reader_one_line_says_how(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"pip install 'sam_train\[medical\]'"):
        list_records(read_specs(f"dicom:{series}")[0])
