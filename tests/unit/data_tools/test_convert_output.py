"""The command line around the converters: folders, repeats, limits, messages, photos."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.convert import main
from sam_train.data.formats.coco import parse_segmentation
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.jpeg import read_photo
from sam_train.masks.runs import checked_rle, label_masks, run_lengths

H, W = 20, 30


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five images with label maps of 1 to 5 masks."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for n in range(5):
        pixels = rng.integers(0, 255, (H, W, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{n}.jpg")
        labels = np.zeros((H, W), dtype=np.uint8)
        for label in range(1, n + 2):
            labels[2 * label : 2 * label + 2, : 2 + label] = label
        Image.fromarray(labels).save(tmp_path / f"masks/{n}.png")
    return tmp_path


def args(folder: Path, *more: object, workers: int = 0) -> list[str]:
    common = ["masks", "--images", folder / "images", "--masks", folder / "masks"]
    return [str(part) for part in (*common, *more, "--workers", workers)]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".json"}


def test_workers_leave_the_bytes_as_they_are(source: Path) -> None:
    assert main(args(source, "--out", source / "one", "--shard-size", 2)) == 0
    assert main(args(source, "--out", source / "two", "--shard-size", 2, workers=2)) == 0
    assert contents(source / "one") == contents(source / "two")
    shards = sorted(p.name for p in (source / "one").glob("*.tar"))
    assert shards == ["sa_000000.tar", "sa_000001.tar", "sa_000002.tar"]


def test_a_second_run_does_nothing_and_a_changed_one_replaces(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source / "out"
    main(args(source, "--out", out, "--shard-size", 2))
    first = capsys.readouterr().out
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert main(args(source, "--out", out, "--shard-size", 2)) == 0
    again = capsys.readouterr().out
    assert "nothing to do" in again
    assert again.splitlines()[:-1] == first.splitlines()[:-1]
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    # Fewer, larger shards: none of the old ones may stay behind.
    assert main(args(source, "--out", out)) == 0
    assert [p.name for p in out.glob("*.tar")] == ["sa_000000.tar"]
    (source / "masks/4.png").unlink()
    assert main(args(source, "--out", out)) == 0
    assert "4 images, 10 masks" in capsys.readouterr().out
    assert sorted(p.name for p in source.iterdir()) == ["images", "masks", "out"]


def test_a_failure_leaves_the_earlier_folder(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source / "out"
    main(args(source, "--out", out))
    before = contents(out)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_tools.convert.write_lists", full_disk)
    assert main(args(source, "--out", out, "--min-area", 5)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(out) == before
    assert sorted(p.name for p in source.iterdir()) == ["images", "masks", "out"]


def test_foreign_files_are_never_deleted(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source / "out"
    out.mkdir()
    (out / "sa_000000.tar").write_bytes(b"somebody else's")
    assert main(args(source, "--out", out)) == 2
    assert "holds sa_000000.tar, which no conversion wrote" in capsys.readouterr().err
    assert (out / "sa_000000.tar").read_bytes() == b"somebody else's"
    assert main(args(source, "--out", source / "images/0.jpg")) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_dry_run_counts_what_a_run_writes(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--out", source / "out", "--min-area", 9, "--limit", 4)
    assert main(args(source, *options, "--dry-run")) == 0
    dry = capsys.readouterr().out.splitlines()
    assert not (source / "out").exists()
    assert main(args(source, *options)) == 0
    wet = capsys.readouterr().out.splitlines()
    assert dry[:-1] == wet[:-1]
    # Mask n has 2 x (2 + n) pixels, so those from 3 on stay: one in image 2 and two in image 3.
    assert dry[-2] == "2 images, 3 masks; skipped 2 images and 7 masks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--images", "nowhere"], "--images: nowhere does not exist"),
        (["--masks", "images/0.jpg"], "is a file, not a folder"),
        (["--mask-suffix", "_nowhere"], "nothing to convert"),
    ],
)
def test_errors_are_one_line(
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(source)
    assert main(args(source, "--out", "out", *change)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (source / "out").exists()


@pytest.mark.parametrize("option", ["--jpeg-quality=0", "--shard-size=x", "--min-area=-1"])
def test_numbers_out_of_range(
    source: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args(source, "--out", source / "out", option))
    assert stop.value.code == 2
    assert option.split("=", maxsplit=1)[0] in capsys.readouterr().err


def test_coco_file_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "instances.json"
    image = {"id": 1, "file_name": "a.jpg", "height": H, "width": W}
    cases = {
        "{": "cut off: it ends after 1 bytes",
        json.dumps({"images": [image]}): "a COCO file without `annotations`",
        json.dumps({"images": [image | {"id": []}], "annotations": []}): "missing image: a.jpg",
        json.dumps(
            {"images": [image, image | {"file_name": "b.jpg"}], "annotations": []}
        ): "skipped 2 images, several images have its id: a.jpg: image 1; b.jpg: image 1",
    }
    for text, message in cases.items():
        path.write_text(text)
        command = ["coco", "--images", tmp_path, "--annotations", path, "--out", tmp_path / "out"]
        assert main([*map(str, command)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert str(tmp_path) in err or "several images" in err


# --- photos -----------------------------------------------------------------------------------


def decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return np.asarray(image)


def test_photos_that_are_no_rgb_jpeg(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, W), (H, 1))
    grey = Image.fromarray(ramp.astype(np.uint8))
    grey.save(tmp_path / "grey.jpg")
    Image.merge("CMYK", [Image.new("L", (W, H), 0)] * 3 + [Image.fromarray(255 - np.asarray(grey))]).save(tmp_path / "cmyk.jpg", quality=95)  # fmt: skip  # noqa: E501
    # A 12-bit sensor in a 16-bit file.
    Image.fromarray((100 + ramp * 3000 / 255).astype(np.uint16)).save(tmp_path / "deep.png")
    holes = ramp.astype(np.float32)
    holes[:, :1] = np.nan
    Image.fromarray(holes).save(tmp_path / "holes.tif")
    for name in ["grey.jpg", "cmyk.jpg", "deep.png", "holes.tif"]:
        pixels = decoded(read_photo(tmp_path / name).jpeg).astype(int)
        assert np.abs(pixels - ramp[..., None]).max() <= 12, name


def test_transparency_becomes_white(tmp_path: Path) -> None:
    pixels = np.zeros((H, W, 4), dtype=np.uint8)
    pixels[:, : W // 2] = (10, 20, 200, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = decoded(read_photo(tmp_path / "a.png").jpeg).astype(int)
    assert np.abs(result[:, : W // 2 - 2] - (10, 20, 200)).max() <= 6
    assert result[:, W // 2 + 2 :].min() >= 249


def test_a_cut_off_jpeg_is_not_copied(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    assert read_photo(path).jpeg == whole
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SkipImageError, match=r"unreadable image.*a\.jpg"):
        read_photo(path)


# --- run lengths ------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True)
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
                  elements=st.sampled_from([-1, 0, 1, 70_000])))  # fmt: skip
def test_label_masks_are_pycocotools_bytes(labels: npt.NDArray[np.int32]) -> None:
    found = label_masks(labels, ignore=(-1,))
    assert list(found) == [value for value in np.unique(labels).tolist() if value != -1]
    for value, mask in found.items():
        expected = coco_mask.encode(np.asfortranarray(labels == value, dtype=np.uint8))
        assert mask["size"] == expected["size"]
        assert mask["counts"].encode() == expected["counts"]
        runs = run_lengths(mask["counts"])
        flat = (labels == value).ravel(order="F")
        np.testing.assert_array_equal(np.repeat(np.arange(runs.size) % 2 == 1, runs), flat)


# No longer runs: from 2^24 on pycocotools' encoder writes past the end of its buffer.
@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=12))
def test_run_lengths_invert_pycocotools(runs: list[int]) -> None:
    rle = coco_mask.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)
    assert run_lengths(rle["counts"]).tolist() == runs


@pytest.mark.parametrize(
    "counts",
    ["", "P", "0", "~~", "é", "ooooooooooooo0", [H * W + 1], [-5, H * W + 5], [H * W - 1]],
)
def test_runs_that_do_not_fill_the_image_are_refused(counts: str | list[int]) -> None:
    with pytest.raises(ValueError, match=r"RLE|ascii"):
        checked_rle([H, W], counts)


def test_sizes_that_cannot_be_counted_are_refused_and_large_ones_are_not() -> None:
    for size in ([2**16, 2**15], [0, 5], [5]):
        with pytest.raises(ValueError, match=r"a mask of|size must be"):
            checked_rle(size, [int(np.prod(size))])
    # Runs with which pycocotools' encoder writes past the end of its buffer.
    runs = [2**24, 2**24 + 1, 2**24, 2**25, 5]
    size = [1, sum(runs)]
    assert run_lengths(checked_rle(size, runs)["counts"]).tolist() == runs
    large = parse_segmentation(b"[[0, 0, 9, 0, 9, 9]]", 2**12, 3 * 2**12 + 1)
    small = coco_mask.frPyObjects([[0, 0, 9, 0, 9, 9]], 2**12, 20)
    assert coco_mask.area(large) == coco_mask.area(small).sum()
    with pytest.raises(ValueError, match="a mask of"):
        parse_segmentation(b"[[0, 0, 9, 0, 9, 9]]", 2**16, 2**15)
    with pytest.raises(ValueError, match="a mask of"):
        label_masks(np.zeros((0, 4), dtype=np.int64))
