"""Photos by foreign names: found where one file can be meant, never another photo's file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sam_train.data.formats.photo_names import find_photos, rename_note


def place(folder: Path, *files: str) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def find(folder: Path, *names: str) -> list[str | None]:
    """The found files below the folder, None where none is."""
    found = find_photos(folder, [[name] for name in names])
    for one in found:
        assert one.path.is_file() == (one.missing is None)
    return [
        None if one.missing is not None else one.path.relative_to(folder).as_posix()
        for one in found
    ]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/a b.jpg", "train/a b.jpg"),
        ("train\\a b.jpg", "train/a b.jpg"),
        (".\\train\\a b.jpg", "train/a b.jpg"),
        ("..\\..\\media\\upload\\4\\a b.jpg", "train/a b.jpg"),
        ("D:\\photos\\train\\a b.jpg", "train/a b.jpg"),
        ("d:/photos/a b.jpg", "train/a b.jpg"),
        ("\\\\server\\share\\train\\a b.jpg", "train/a b.jpg"),
        ("/home/somebody/set/train/a b.jpg", "train/a b.jpg"),
        ("train/a%20b.jpg", "train/a b.jpg"),
        ("train%2Fa%20b.jpg", "train/a b.jpg"),
        ("photos/train/a b.jpg", "train/a b.jpg"),
        ("a b.jpg", "train/a b.jpg"),
        ("Train/A B.JPG", "train/a b.jpg"),
        ("train/a b.jpeg", "train/a b.jpg"),
        ("train/a b.png", "train/a b.jpg"),
        ("a b", "train/a b.jpg"),
        (" a b.jpg ", "train/a b.jpg"),
        ("https://host.org/set/a%20b.jpg?size=2#x", "train/a b.jpg"),
        ("s3://bucket/train/a b.jpg", "train/a b.jpg"),
        ("file:///D:/set/train/a%20b.jpg", "train/a b.jpg"),
        ("/data/upload/1/abcd1234-a b.jpg", "train/a b.jpg"),
        ("/data/local-files/?d=set/train/a%20b.jpg", "train/a b.jpg"),
        ("a b_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "train/a b.jpg"),
        ("c.jpg", None),
        ("b.jpg", None),
        ("", None),
        ("..", None),
        ("x" * 5000, None),
        ("a\0b.jpg", None),
    ],
)
def test_one_photo_by_all_its_names(tmp_path: Path, name: str, file: str | None) -> None:
    folder = place(tmp_path / "photos", "train/a b.jpg", "train/other.jpg")
    assert find(folder, name) == [file]


def test_names_with_their_own_percent_and_backslash_are_left_alone(tmp_path: Path) -> None:
    place(tmp_path, "a%20b.jpg", "a b.jpg", "x\\y.jpg", "x/y.jpg")
    names = ["a%20b.jpg", "a b.jpg", "x\\y.jpg", "x/y.jpg"]
    assert find(tmp_path, *names) == names


def test_composed_and_decomposed_letters(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bäume é.jpg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for number, (on_disk, given) in enumerate(((composed, decomposed), (decomposed, composed))):
        folder = place(tmp_path / str(number), f"train/{on_disk}")
        assert find(folder, f"train/{given}") == [f"train/{on_disk}"]
        assert find(folder, f"C:\\set\\{given.upper()}") == [f"train/{on_disk}"]


def test_hashes_on_the_disk_instead(tmp_path: Path) -> None:
    place(tmp_path, "0a1b2c3d-x.jpg", "y_png.rf.0123456789abcdef.jpg")
    assert find(tmp_path, "x.jpg", "y.png") == ["0a1b2c3d-x.jpg", "y_png.rf.0123456789abcdef.jpg"]


def test_several_files_that_could_be_it_are_named(tmp_path: Path) -> None:
    place(tmp_path, "train/a.jpg", "val/a.jpg", "b.JPG", "b.jpeg")
    (a, b) = find_photos(tmp_path, [["a.jpg"], ["b.jpg"]])
    assert a.missing == "train/a.jpg, val/a.jpg"
    assert b.missing == "b.JPG, b.jpeg"
    assert a.path == tmp_path / "a.jpg"
    # A folder tells them apart, and so do capitals.
    assert find(tmp_path, "D:\\set\\val\\a.jpg") == ["val/a.jpg"]
    assert find(tmp_path, "set/b.JPG") == ["b.JPG"]


def test_frames_of_other_folders_are_other_photos(tmp_path: Path) -> None:
    place(tmp_path, "video1/0.png", "video1/7.png", "video2/0.png")
    names = ["video1/0.png", "video2/0.png", "video2/7.png", "video3/7.png"]
    assert find(tmp_path, *names) == ["video1/0.png", "video2/0.png", None, None]
    # On another machine, too.
    assert find(tmp_path, *(f"D:\\set\\{name}" for name in names)) == [
        *("video1/0.png", "video2/0.png", None, None)
    ]


def test_two_names_that_could_be_one_file_get_none(tmp_path: Path) -> None:
    place(tmp_path, "0.png", "5.png")
    assert find(tmp_path, "video1/0.png", "video2/0.png") == [None, None]
    assert find(tmp_path, "video1\\0.png", "0.png") == [None, "0.png"]
    assert find(tmp_path, "5.PNG", "5.Png") == [None, None]
    # The same path in other clothes is the same photo.
    assert find(tmp_path, "0.png", ".\\0.png", "./0.png") == ["0.png"] * 3


def test_a_mask_is_not_taken_for_the_photo_beside_it(tmp_path: Path) -> None:
    place(tmp_path, "a.jpg", "a.png", "b.png")
    assert find(tmp_path, "a.jpg", "b.jpg") == ["a.jpg", None]
    # Where all photos were saved as PNG, there is no such doubt.
    assert find(tmp_path / ".", "b.jpg") == ["b.png"]


def test_renamed_photos_are_said_once(tmp_path: Path) -> None:
    place(tmp_path, "x/a.jpg", "x/b.jpg", "c.jpg")
    names = [["D:\\x\\a.jpg"], ["D:\\x\\b.jpg"], ["c.jpg"]]
    assert rename_note(find_photos(tmp_path, names), names) == [
        "2 of 3 photos lie under another name than the file gives, as D:\\x\\a.jpg: x/a.jpg"
    ]
    assert rename_note(find_photos(tmp_path, names[2:]), names[2:]) == []


def test_hidden_files_and_other_kinds_are_no_photos(tmp_path: Path) -> None:
    place(tmp_path, ".thumbs/a.jpg", "._a.jpg", "a.txt", "x/a.jpg")
    assert find(tmp_path, "D:\\a.jpg") == ["x/a.jpg"]
