"""Untrusted JPEGs and JSONs: converted, or refused with a kind and a reason."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.data.sample.decode import BadSample, open_photo, read_masks, to_rgb
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame


def jpeg(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_grey_and_cmyk_become_rgb(mode: str) -> None:
    colour = Image.new("RGB", (24, 16), (200, 200, 200))
    pixels = np.array(to_rgb(open_photo(jpeg(colour.convert(mode)))))
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - 200).max() <= 3


def test_exif_orientation_is_ignored_as_the_masks_lie_on_the_stored_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    photo = to_rgb(open_photo(jpeg(Image.new("RGB", (24, 16)), exif=exif)))
    assert photo.size == (24, 16)


def test_a_huge_header_is_refused_before_memory_is_taken() -> None:
    data = bytearray(jpeg(Image.new("RGB", (24, 16))))
    frame = data.index(b"\xff\xc0")
    # Height and width in the start-of-frame segment.
    for side in (11_000, 65_000):
        data[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
        with pytest.raises(BadSample) as caught:
            open_photo(bytes(data))
        assert caught.value.kind == "bad_jpeg"


def test_cut_and_foreign_files_are_refused() -> None:
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    for data in (b"", b"no photo", png.getvalue(), jpeg(Image.new("RGB", (9, 9)))[:40]):
        with pytest.raises(BadSample, match="not a readable JPEG"):
            open_photo(data)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    half = jpeg(Image.fromarray(noise))[:-2000]
    with pytest.raises(BadSample, match="damaged JPEG"):
        to_rgb(open_photo(half))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"3",
        b'{"image": {}}',
        b'{"annotations": {"segmentation": [[1, 2, 3]]}}',
        b"[" * 100_000,
    ],
)
def test_json_of_another_shape_is_refused(document: bytes) -> None:
    with pytest.raises(BadSample, match="unreadable annotations") as caught:
        read_masks(document, height=4, width=4)
    assert caught.value.kind == "bad_json"
    assert "\n" not in str(caught.value)


def test_float_sizes_are_read_and_a_size_that_disagrees_is_a_bad_mask(make: Any) -> None:
    document = json.loads(make.record(0, make.ellipses(3, height=6, width=9, seed=0)))
    sizes = [[6.0, 9.0], [9, 6], [6.5, 9]]
    for annotation, size in zip(document["annotations"], sizes, strict=True):
        annotation["segmentation"]["size"] = size
    masks = read_masks(json.dumps(document).encode(), height=6, width=9)
    assert masks.runs.status.tolist() == [0, rle.SIZE_DISAGREES, rle.SIZE_DISAGREES]


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (257, 190)])
def test_a_scaled_decode_is_the_same_photo(shape: tuple[int, int]) -> None:
    """Close to the full decode, aligned with it, and never from fewer pixels than are needed."""
    smooth = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    photo = Image.fromarray(smooth).resize(shape[::-1], Image.Resampling.BICUBIC)
    photo.save(file, "JPEG", quality=95, subsampling=0)
    frame = InputFrame(original=shape, side=64)
    exact = frame.resize(to_rgb(open_photo(file.getvalue())))
    reduced = to_rgb(open_photo(file.getvalue()), at_least=frame.size)
    assert reduced.width < shape[1]
    assert reduced.width >= frame.size[1]
    assert reduced.height >= frame.size[0]
    scaled = frame.resize(reduced)
    assert scaled.shape == exact.shape == (*frame.size, 3)
    error = np.square(scaled.astype(float) - exact).mean()
    half_a_pixel = np.diff(exact.astype(float), axis=0) / 2
    assert error < 0.1 * np.square(half_a_pixel).mean()
