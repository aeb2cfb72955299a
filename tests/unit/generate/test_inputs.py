"""What counts as a photo, where it is found, and what becomes of odd and damaged ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.data.shards.writer import TarEntry, write_entries
from sam_train.errors import UserError
from sam_train.generate.inputs import list_photos
from sam_train.runtime.jobs import SkipItem

ORIENTATION = 0x0112


def halves(*, height: int = 40, width: int = 60) -> Any:
    """Black above, white below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 :] = 255
    return pixels


def jpeg(pixels: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def turned() -> Any:
    """EXIF that says: the camera was held so that a quarter turn is needed."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def one(path: Path) -> Any:
    (place,) = list_photos([str(path)])
    return place.read()


def test_a_plain_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(halves()))
    photo = one(path)
    assert photo.jpeg == path.read_bytes()
    assert photo.pixels.shape == (40, 60, 3)


def test_a_turned_photo_stands_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(halves(), exif=turned()))
    pixels = one(path).pixels
    assert pixels.shape == (60, 40, 3)
    # A quarter turn clockwise brings the lower half to the left.
    assert pixels[:, :15].mean() > 240
    assert pixels[:, -15:].mean() < 15


@pytest.mark.parametrize(
    "mode", ["L", "RGBA", "P", "I;16", "1", "CMYK"], ids=lambda m: m.replace(";", "")
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        # A microscope's: a narrow range, far below 65535.
        image = Image.fromarray((1000 + 2 * halves()[..., 0].astype(np.uint16)).astype(np.uint16))
    else:
        image = Image.fromarray(halves()).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    pixels = one(path).pixels
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:15].mean() < 15
    assert pixels[-15:].mean() > 240


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[10:, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    photo = one(tmp_path / "a.png")
    assert photo.pixels[:8].min() >= 250
    assert photo.pixels[12:].max() <= 5
    assert photo.remarks == ("transparent parts are white",)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_file_says_so_when_it_is_read(tmp_path: Path, damage: str) -> None:
    whole = jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = {"empty": b"", "text": b"no photo at all", "cut": whole[: len(whole) // 2]}
    (tmp_path / "a.jpg").write_bytes(content[damage])
    with pytest.raises(SkipItem, match=r"a\.jpg"):
        one(tmp_path / "a.jpg")


def shard(path: Path) -> Path:
    entries = [TarEntry(key=f"sa_{k}", jpeg=jpeg(halves()), json=b"{}") for k in (7, 3)]
    write_entries(entries, path)
    return path


def test_folders_lists_globs_and_shards(tmp_path: Path) -> None:
    below = tmp_path / "photos" / "below"
    below.mkdir(parents=True)
    for path in (below / "b.JPG", below.parent / "a.png", below / "._b.jpg", below / "notes.md"):
        path.write_bytes(b"")
    tar = shard(tmp_path / "photos" / "sa_000000.tar")
    listing = tmp_path / "list.txt"
    listing.write_text("# mine\nphotos/a.png\n\nphotos/*.tar\n")

    def names(*patterns: str) -> list[str]:
        found = list_photos(patterns)
        return [place.name.removeprefix(f"{tmp_path}/photos/") for place in found]

    inside = ["sa_000000.tar/sa_7.jpg", "sa_000000.tar/sa_3.jpg"]
    everything = ["a.png", "below/b.JPG", *inside]
    assert names(str(tmp_path / "photos")) == everything
    assert names(str(tmp_path / "photos"), str(tar), str(below / "b.JPG")) == everything
    assert names(str(listing)) == ["a.png", *inside]
    assert names(str(tmp_path / "photos" / "*.png")) == ["a.png"]
    assert names(str(tmp_path / "photos" / "sa_{000000..000000}.tar")) == inside
    assert [place.key for place in list_photos([str(tar)])] == ["sa_7", "sa_3"]


def test_photos_in_shards_stay_as_stored(tmp_path: Path) -> None:
    data = jpeg(halves(), exif=turned())
    write_entries([TarEntry(key="sa_1", jpeg=data, json=b"{}")], tmp_path / "a.tar")
    photo = one(tmp_path / "a.tar")
    assert photo.jpeg == data
    assert photo.pixels.shape == (40, 60, 3)


def test_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "list.txt").write_text("list.txt\n")
    for pattern, message in (
        (tmp_path, "holds no photo"),
        (tmp_path / "absent", "matches nothing"),
        (tmp_path / "notes.md", "is no photo"),
        (tmp_path / "absent.tar", "does not exist"),
        (tmp_path / "list.txt", "names another list"),
    ):
        with pytest.raises(UserError, match=message):
            list_photos([str(pattern)])
