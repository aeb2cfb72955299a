"""Photos of every kind by one rule, against numpy, Pillow and tifffile."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageOps

from data_tools.convert import main
from sam_train.data.formats.rle import RleRecord
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import pages
from sam_train.data.photos.jpeg import read_photo, read_shown
from sam_train.data.photos.rule import PhotoRule
from sam_train.eval.datasets.images import FileImage
from sam_train.generate.inputs import list_photos

H, W = 40, 60
RAMP = np.tile(np.linspace(0, 1, W), (H, 1))
COLOUR = np.stack([RAMP, RAMP[:, ::-1] * 0.7, 0.2 + 0.3 * RAMP], axis=-1)
TWELVE = (150 + COLOUR * 3700).astype(np.uint16)
EIGHT = (COLOUR * 255).astype(np.uint8)

Pixels = npt.NDArray[Any]


def stretched(values: Pixels, *, together: bool, there: Pixels | None = None) -> Pixels:
    """The documented stretch: percentiles 0.5 and 99.5, the lower rounded up, the upper down."""
    there = np.ones(values.shape[:2], bool) if there is None else there
    axis = None if together else 0
    low = np.percentile(values[there], 0.5, axis=axis, method="higher").astype(float)
    high = np.percentile(values[there], 99.5, axis=axis, method="lower").astype(float)
    scaled = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    return np.where(there[..., None], scaled, 0)


def close(found: Pixels, expected: Pixels, *, by: float = 0.51) -> bool:
    return found.dtype == np.uint8 and bool(np.abs(found - expected.astype(float)).max() <= by)


def shown(path: Path, **rule: Any) -> Pixels:
    return read_shown(path, rule=PhotoRule(**rule)).pixels


# --- more than 8 bits -------------------------------------------------------------------------

TIFFS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big endian": {"byteorder": ">"},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate, strips of 7 rows": {"compression": "deflate", "rowsperstrip": 7},
    "one strip": {"compression": "deflate", "rowsperstrip": H},
    "zstd": {"compression": "zstd"},
    "tiles": {"tile": (16, 32), "compression": "deflate", "predictor": True},
    "planes": {"planarconfig": "separate"},
    "planes of tiles": {"planarconfig": "separate", "tile": (16, 16), "compression": "lzw"},
}


@pytest.mark.parametrize("kind", TIFFS, ids=lambda kind: kind.replace(",", ""))
def test_colour_tiffs_of_twelve_bits(tmp_path: Path, kind: str) -> None:
    pixels = np.moveaxis(TWELVE, -1, 0) if "planes" in kind else TWELVE
    if TIFFS[kind].get("byteorder"):
        pixels = pixels.astype(">u2")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **TIFFS[kind])
    assert close(shown(tmp_path / "a.tif"), stretched(TWELVE, together=True))


@pytest.mark.parametrize("name", ["a.png", "a.jp2"])
def test_colour_of_sixteen_bits_in_other_formats(tmp_path: Path, name: str) -> None:
    encode = {"a.png": imagecodecs.png_encode, "a.jp2": imagecodecs.jpeg2k_encode}[name]
    (tmp_path / name).write_bytes(encode(TWELVE))
    assert close(shown(tmp_path / name), stretched(TWELVE, together=True))


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "uint32", "float16", "float32", "float64", ">i2", ">f4"]
)
def test_one_band_of_every_type(tmp_path: Path, dtype: str) -> None:
    scale = 200 if dtype == "int8" else 3000
    grey = (RAMP * scale - scale / 2 * (dtype != "uint32")).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack")
    assert close(shown(tmp_path / "a.tif"), stretched(grey[..., None], together=True), by=1)


def test_grey_of_sixteen_bits_by_pillow(tmp_path: Path) -> None:
    grey = TWELVE[..., 0]
    expected = stretched(grey[..., None], together=True)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "i.tif")
    Image.fromarray(grey).save(tmp_path / "l.tif", compression="tiff_lzw")
    for name in ("a.png", "i.tif", "l.tif"):
        assert close(shown(tmp_path / name), expected), name


def test_bands_that_are_no_colours_are_stretched_each_on_its_own(tmp_path: Path) -> None:
    bands = np.dstack([TWELVE, 7 * TWELVE[..., :1], TWELVE[..., :1] // 9])
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    assert close(shown(tmp_path / "a.tif"), stretched(bands[..., :3], together=False))
    found = shown(tmp_path / "a.tif", bands=(5, 4, 1))
    assert close(found, stretched(bands[..., [4, 3, 0]], together=False))
    assert close(shown(tmp_path / "a.tif", bands=(4,)), stretched(bands[..., 3:4], together=True))


def test_two_bands_are_magenta_and_green(tmp_path: Path) -> None:
    two = TWELVE[..., :2]
    tifffile.imwrite(tmp_path / "a.tif", two, photometric="minisblack", planarconfig="contig")
    each = stretched(two, together=False)
    found = read_shown(tmp_path / "a.tif")
    assert close(found.pixels, each[..., [0, 1, 0]])
    assert "bands 1 2 1 of 2 shown as red, green, blue" in found.taken.remarks


def test_a_band_that_is_not_there_is_said(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TWELVE, photometric="rgb")
    with pytest.raises(SkipImageError, match=r"lacks a band of --bands.*has 3"):
        shown(tmp_path / "a.tif", bands=(4, 3, 2))


def test_a_range_is_the_same_for_all(tmp_path: Path) -> None:
    for k, name in enumerate(("dark.tif", "bright.tif"), start=1):
        tifffile.imwrite(tmp_path / name, TWELVE * k, photometric="rgb")
    for k, name in enumerate(("dark.tif", "bright.tif"), start=1):
        expected = np.clip(TWELVE * k / 8000.0, 0, 1) * 255
        assert close(shown(tmp_path / name, windows=((0.0, 8000.0),)), expected)


def test_other_percentiles(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TWELVE, photometric="rgb")
    low = np.percentile(TWELVE, 10, method="higher")
    high = np.percentile(TWELVE, 80, method="lower")
    expected = np.clip((TWELVE.astype(float) - low) / (high - low), 0, 1) * 255
    assert close(shown(tmp_path / "a.tif", percentiles=(10, 80)), expected)


# --- values that are none ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(H, W), (4, 5)])
def test_one_hot_pixel_is_harmless(tmp_path: Path, size: tuple[int, int]) -> None:
    photo = TWELVE[:: H // size[0], :: W // size[1]].copy()
    tifffile.imwrite(tmp_path / "cold.tif", photo, photometric="rgb")
    photo[1, 1, 0] = 65_535
    tifffile.imwrite(tmp_path / "hot.tif", photo, photometric="rgb")
    cold, hot = (shown(tmp_path / name).astype(int) for name in ("cold.tif", "hot.tif"))
    assert np.abs(np.delete(hot - cold, 1, axis=0)).max() <= 12


@pytest.mark.parametrize("kind", ["tag", "tag of a float32", "setting", "nan", "inf"])
def test_missing_values_are_black_and_move_nothing(tmp_path: Path, kind: str) -> None:
    there = np.ones((H, W), bool)
    there[:, :20] = False
    gone = {"nan": np.nan, "inf": -np.inf, "tag of a float32": -3.4028234663852886e38}
    values = np.where(there[..., None], TWELVE.astype(np.float32), gone.get(kind, -9999))
    text = {"tag": "-9999", "tag of a float32": "-3.40282e+38"}.get(kind)
    tags = [(42113, 2, 0, text, True)] if text else []
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values.astype(np.float32), photometric="rgb", extratags=tags)
    rule = {"nodata": (-9999.0,)} if kind == "setting" else {}
    assert close(shown(path, **rule), stretched(TWELVE, together=True, there=there), by=1)
    remarks = read_shown(path, rule=PhotoRule(**rule)).taken.remarks
    assert "pixels without a value (NoData, NaN) are black" in remarks


def test_nodata_in_eight_bits_is_where_all_bands_have_it(tmp_path: Path) -> None:
    photo = EIGHT.copy()
    photo[:5] = 255
    photo[10, :, 0] = 255
    tags = [(42113, 2, 0, "255", True)]
    tifffile.imwrite(tmp_path / "a.tif", photo, photometric="rgb", extratags=tags)
    expected = photo.copy()
    expected[:5] = 0
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), expected)


def test_a_photo_of_one_value_or_none_and_a_sparse_one(tmp_path: Path) -> None:
    sparse = np.zeros((H, W), np.uint16)
    sparse[3, 4:7] = (100, 200, 300)
    for name, values in {
        "flat": np.full((H, W), 700, np.uint16),
        "empty": np.full((H, W), np.nan, np.float32),
        "sparse": sparse,
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
    assert not shown(tmp_path / "flat.tif").any()
    assert not shown(tmp_path / "empty.tif").any()
    # Both percentiles are 0, so the extremes count.
    assert shown(tmp_path / "sparse.tif")[3, 4:7, 0].tolist() == [85, 170, 255]


# --- transparency -----------------------------------------------------------------------------


def with_alpha(alpha: Pixels) -> Pixels:
    return np.dstack([EIGHT, alpha.astype(np.uint8)])


HALF = np.where(RAMP < 0.5, 0, 255)
SOFT = np.clip(RAMP * 700, 0, 255)


@pytest.mark.parametrize("alpha", [HALF, SOFT], ids=["half", "soft"])
def test_transparency_is_blended_as_pillow_does(tmp_path: Path, alpha: Pixels) -> None:
    layers = Image.fromarray(with_alpha(alpha))
    white = Image.new("RGBA", layers.size, "white")
    expected = np.asarray(Image.alpha_composite(white, layers).convert("RGB"))
    layers.save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.tif", with_alpha(alpha), photometric="rgb", extrasamples=["unassalpha"]
    )
    for name in ("a.png", "a.tif"):
        found = read_shown(tmp_path / name)
        np.testing.assert_array_equal(found.pixels, expected)
        assert found.taken.remarks == ("transparent parts are white",)


@pytest.mark.parametrize(
    "band",
    [np.full((H, W), 30), RAMP * 254, np.minimum(RAMP * 300, 255), np.zeros((H, W)),
     250 - 200 * (RAMP > 0.5)],
    ids=["one value", "ramp", "saturated", "zeros", "two values"],
)  # fmt: skip
@pytest.mark.parametrize("mark", ["unassalpha", "assocalpha", "unspecified"])
def test_infrared_in_the_place_of_transparency_is_not_blended(
    tmp_path: Path, band: Pixels, mark: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, with_alpha(band), photometric="rgb", extrasamples=[mark])
    found = read_shown(path)
    np.testing.assert_array_equal(found.pixels, EIGHT)
    said = "band 4 is marked as transparency but is none: not blended" in found.taken.remarks
    assert said == (mark != "unspecified")
    assert "bands 1 2 3 of 4 shown as red, green, blue" in found.taken.remarks
    np.testing.assert_array_equal(shown(path, bands=(4, 1, 2)), with_alpha(band)[..., [3, 0, 1]])


def test_premultiplied_colours_and_deep_transparency(tmp_path: Path) -> None:
    layers = with_alpha(HALF)
    layers[HALF == 0] = 0
    tifffile.imwrite(tmp_path / "a.tif", layers, photometric="rgb", extrasamples=["assocalpha"])
    expected = np.where(HALF[..., None] > 0, EIGHT, 255)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), expected)
    deep = np.dstack([TWELVE, (HALF * 257).astype(np.uint16)])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    there = HALF > 0
    colours = np.where(there[..., None], stretched(TWELVE, together=True, there=there), 255)
    assert close(shown(tmp_path / "a.png"), colours)


# --- what stays as it is ----------------------------------------------------------------------


def test_eight_bits_are_pillows_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(EIGHT)
    smooth = Image.new("L", (W, H), 90)
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (rgb, {}),
        "grey.png": (rgb.convert("L"), {}),
        "dim.png": (smooth, {}),
        "palette.png": (rgb.quantize(16), {}),
        "one.png": (rgb.convert("1"), {}),
        "rgb.bmp": (rgb, {}),
        "rgb.webp": (rgb, {"lossless": True}),
        "rgb.gif": (rgb.quantize(16), {}),
        "rgb.jp2": (rgb, {}),
        "rgb.ppm": (rgb, {}),
        "grey.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "rgb.tif": (rgb, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "cmyk.tif": (rgb.convert("CMYK"), {}),
        "ycbcr.tif": (rgb.convert("YCbCr"), {}),
        "palette.tif": (rgb.quantize(16), {}),
        "one.tif": (rgb.convert("1"), {}),
        "fax.tif": (rgb.convert("1"), {"compression": "group4"}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as stored:
            expected = np.asarray(stored.convert("RGB"))
        found = read_shown(tmp_path / name)
        # Two JPEG decoders may differ by one.
        assert close(found.pixels, expected, by=1.0 if name == "jpeg.tif" else 0.0), name
        assert found.taken.low == (), name
    white = 255 - EIGHT[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", white, photometric="miniswhite")
    np.testing.assert_array_equal(shown(tmp_path / "white.tif")[..., 0], EIGHT[..., 0])


def test_a_plain_jpeg_is_copied_unless_bands_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(EIGHT).save(path)
    assert read_photo(path).jpeg == path.read_bytes()
    assert read_photo(path).taken.copied
    assert read_photo(path, rule=PhotoRule(bands=(1, 2, 3))).jpeg == path.read_bytes()
    with Image.open(path) as stored:
        pixels = np.asarray(stored)
    np.testing.assert_array_equal(shown(path, bands=(3, 2, 1)), pixels[..., ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiffs_stand_as_pillow_turns_them(tmp_path: Path, orientation: int) -> None:
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", TWELVE, photometric="rgb", extratags=tags)
    tifffile.imwrite(tmp_path / "b.tif", EIGHT, photometric="rgb", extratags=tags)
    with Image.open(tmp_path / "b.tif") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(shown(tmp_path / "b.tif"), expected)
    assert shown(tmp_path / "a.tif").shape == expected.shape


# --- pages ------------------------------------------------------------------------------------


def test_pages_are_photos_and_overviews_are_not(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    planes = [TWELVE[..., k] for k in range(3)]
    with tifffile.TiffWriter(path) as file:
        for plane in planes:
            file.write(plane, photometric="minisblack", contiguous=False)
            file.write(plane[::2, ::2], photometric="minisblack", subfiletype=1)
    names = pages(path)
    assert [page.name for page in names] == ["stack_p001.tif", "stack_p002.tif", "stack_p003.tif"]
    for page, plane in zip(names, planes, strict=True):
        assert close(shown(page), stretched(plane[..., None], together=True))
    with pytest.raises(SkipImageError, match="it has 3 pictures"):
        shown(tmp_path / "stack_p004.tif")
    with pytest.raises(SkipImageError, match="missing image"):
        shown(tmp_path / "other_p001.tif")


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_a_microscopes_channels_are_bands_and_its_depths_are_photos(
    tmp_path: Path, kind: str
) -> None:
    channels = np.moveaxis(TWELVE[..., :2], -1, 0)
    stack = np.stack([channels, channels // 2, channels // 3])
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    options = {"imagej": True} if kind == "imagej" else {"photometric": "minisblack"}
    tifffile.imwrite(path, stack, metadata={"axes": "ZCYX"}, **options)
    found = pages(path)
    assert len(found) == 3
    for page, plane in zip(found, stack, strict=True):
        expected = stretched(np.moveaxis(plane, 0, -1), together=False)[..., [0, 1, 0]]
        assert close(shown(page), expected)


def test_frames_of_a_gif(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels).quantize(16) for pixels in (EIGHT, EIGHT[:, ::-1])]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    first, second = pages(tmp_path / "a.gif")
    assert np.abs(shown(first).astype(int) - EIGHT).mean() < 8
    assert np.abs(shown(second).astype(int) - EIGHT[:, ::-1]).mean() < 8


# --- a whole folder ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One thing of each kind: six photos that are used, and what cannot be."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    (images / "below").mkdir(parents=True)
    masks.mkdir()
    tifffile.imwrite(images / "deep.tif", TWELVE, photometric="rgb")
    tifffile.imwrite(
        images / "infrared.tif", with_alpha(RAMP * 99), photometric="rgb",
        extrasamples=["unassalpha"],
    )  # fmt: skip
    tifffile.imwrite(images / "stack.tif", TWELVE[..., :1].transpose(2, 0, 1)[[0, 0]],
                     photometric="minisblack", metadata=None)  # fmt: skip
    Image.fromarray(EIGHT).save(images / "plain.jpg")
    Image.fromarray(EIGHT).save(images / "below/plain.png")
    for name in ("bad.tif", "bad.png"):
        (images / name).write_bytes(b"no picture")
    for name in ("a.heic", "b.NEF", "c.dcm", "d.nii.gz", "e.npy", "f.czi", "g.pdf"):
        (images / name).write_bytes(b"")
    (images / "readme.txt").write_text("about these photos")
    Image.fromarray(EIGHT).save(images / "alone.jpg")
    label = Image.fromarray((RAMP > 0.5).astype(np.uint8))
    (masks / "below").mkdir()
    for name in ("deep", "infrared", "stack_p001", "stack_p002", "plain", "below/plain"):
        label.save(masks / f"{name}.png")
    label.save(masks / "bad.png")
    return tmp_path


def convert(folder: Path, *more: object) -> int:
    command = ["masks", "--images", folder / "images", "--masks", folder / "masks", *more]
    return main([*map(str, command), "--workers", "0"])


def table(path: Path) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_everything_in_the_folder_is_used_or_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    assert convert(folder, "--out", out) == 0
    used = {row["file_name"] for row in table(out / "sources.tsv")}
    left_out = [row for row in table(out / "skipped.tsv") if row["kind"] != "mask"]
    names = {row["name"].split(" (")[0] for row in left_out}
    assert len(names) == len(left_out)
    files = {p.relative_to(folder / "images").as_posix()
             for p in (folder / "images").rglob("*") if p.is_file()}  # fmt: skip
    assert used & names == set()
    assert used | names == files - {"stack.tif"} | {"stack_p001.tif", "stack_p002.tif"}
    reasons = {row["name"]: row["reason"] for row in left_out}
    assert reasons["a.heic"] == "HEIC is not read (save it as JPEG or PNG)"
    assert reasons["d.nii.gz"] == (
        "a volume is not read (data.train=nifti:FOLDER or dicom:FOLDER reads its slices)"
    )
    printed = capsys.readouterr().out
    assert "skipped 1 image, HEIC is not read (save it as JPEG or PNG): a.heic" in printed


def test_what_was_done_is_recorded_and_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    assert convert(folder, "--out", out) == 0
    rows = {row["file_name"]: row for row in table(out / "photos.tsv")}
    low = np.percentile(TWELVE, 0.5, method="higher")
    high = np.percentile(TWELVE, 99.5, method="lower")
    assert rows["deep.tif"]["stored"] == "uint16 x 3"
    assert rows["deep.tif"]["black"] == f"{low} {low} {low}"
    assert rows["deep.tif"]["white"] == f"{high} {high} {high}"
    assert rows["infrared.tif"]["bands"] == "1 2 3"
    assert rows["plain.jpg"]["remarks"] == "copied byte for byte"
    assert rows["below/plain.png"]["remarks"] == ""
    first = capsys.readouterr().out
    assert (
        "read 1 photo, band 4 is marked as transparency but is none: not blended: infrared.tif"
        in first
    )
    said = [line for line in first.splitlines() if line.startswith("read ")]
    assert [p["reason"] for p in json.loads((out / "convert.json").read_text())["photos"]] == [
        line.split(", ", 1)[1].rsplit(": ", 1)[0] for line in said
    ]
    # Said again where nothing is to do, and another rule makes other shards.
    assert convert(folder, "--out", out) == 0
    again = capsys.readouterr().out
    assert "nothing to do" in again
    assert [line for line in again.splitlines() if line.startswith("read ")] == said
    assert convert(folder, "--out", out, "--range", 0, 4095) == 0
    rows = {row["file_name"]: row for row in table(out / "photos.tsv")}
    assert rows["deep.tif"]["white"] == "4095 4095 4095"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bands", 1, 2, 3, 4), "--bands: at most three"),
        (("--stretch", 90, 10), "--stretch: the first number must be below the second"),
        (("--range", 5, 5), "--range: the first number must be below the second"),
    ],
)
def test_options_that_mean_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], options: Any, message: str
) -> None:
    assert convert(folder, "--out", folder / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_shards_generate_and_evaluate_see_the_same_pixels(folder: Path) -> None:
    assert convert(folder, "--out", folder / "out", "--jpeg-quality", 95) == 0
    places = {Path(place.path).name: place for place in list_photos([str(folder / "images")])}
    assert "a.heic" in places  # counted there, too
    numbers = {row["file_name"]: row["image_id"] for row in table(folder / "out/sources.tsv")}
    with tarfile.open(folder / "out/sa_000000.tar") as tar:
        for name in ("deep.tif", "infrared.tif", "stack_p002.tif"):
            stored = tar.extractfile(f"sa_{numbers[name]}.jpg")
            assert stored is not None
            jpeg = stored.read()
            assert places[name].read().jpeg == jpeg
            record = RleRecord(
                name=name, image=folder / "images" / name, size=[H, W], counts=[[0, H * W]]
            )
            pixels = FileImage(dataset="d", name=name, record=record).load().image
            decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
            assert np.abs(pixels.astype(int) - decoded).max() <= 12


def test_a_photo_that_no_shard_holds_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "a.png")
    with pytest.raises(SkipImageError, match=r"python -m data_tools\.tile.*10000 x 9000 pixels"):
        read_photo(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 9_000, "width": 10_000}
    masks = [{"id": k, "image_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]} for k in (5, 6)]
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": masks}))
    command = ["coco", "--images", tmp_path, "--annotations", tmp_path / "a.json", "--workers", 0]
    assert main([*map(str, command), "--out", str(tmp_path / "out")]) == 2
    assert "0 images, 0 masks; skipped 1 image and 2 masks" in capsys.readouterr().err
