"""JSON that is not quite JSON: what Python's own json makes of the sound text is what comes out."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sam_train.data.formats.foreign_json import as_json, read_json
from sam_train.data.formats.json_kinds import kind_of
from sam_train.errors import UserError

CONTENT = {"name": 'Bäume \\ 木 "a".jpg', "values": [1, 2.5, -3e4, None, True], "more": {"a": []}}
SOUND = json.dumps(CONTENT, ensure_ascii=False)


def decoded(data: bytes) -> Any:
    return as_json(Path("a.json"), data).decode(Any)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        SOUND.encode(),
        codecs.BOM_UTF8 + SOUND.encode(),
        codecs.BOM_UTF16_LE + SOUND.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + SOUND.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + SOUND.encode("utf-32-le"),
        SOUND.encode("utf-16-le"),
        SOUND.encode("utf-16-be"),
        gzip.compress(SOUND.encode(), mtime=0),
        bz2.compress(SOUND.encode()),
        lzma.compress(codecs.BOM_UTF8 + SOUND.encode()),
        b"\n\t " + SOUND.encode() + b"\r\n",
    ],
)
def test_encodings_and_compressions(data: bytes) -> None:
    assert decoded(data) == CONTENT


def test_western_letters_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"file_name": "Bäume€1.jpg"}'.encode("cp1252"))
    file = read_json(path)
    assert file.decode(dict[str, str]) == {"file_name": "Bäume€1.jpg"}
    assert file.notes == ["a.json is not in UTF-8: read as Windows' Western letters (cp1252)"]


def test_a_zip_of_one_json(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no")
        archive.writestr("x/instances.json", SOUND)
    assert read_json(path).decode(Any) == CONTENT  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("val.json", SOUND)
    with pytest.raises(UserError, match=r"2 JSON files \(val.json, x/instances.json\)"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": NaN, "b": [Infinity, -Infinity, 1]}', {"a": None, "b": [None, None, 1]}),
        ('{"a": nan, "b": None, "c": True}', {"a": None, "b": None, "c": True}),
        ('{"a": [1, 2,], "b": 3,\n}', {"a": [1, 2], "b": 3}),
        ('{"a": "NaN, ]", "b": "x,]", "c": NaN}', {"a": "NaN, ]", "b": "x,]", "c": None}),
        ('{"a": 1e999, "b": 1e-999, "c": 1e308}', {"a": None, "b": 0.0, "c": 1e308}),
        ('{"a": ' + "9" * 5000 + ', "b": 2}', {"a": None, "b": 2}),
        ('{"a": "line\nbreak\tand \x01"}', {"a": "line\nbreak\tand \x01"}),
        (r'{"a": "D:\work\x.jpg", "b": "D:\\work"}', {"a": "D:\\work\\x.jpg", "b": "D:\\work"}),
        (r'{"a": "\ud800 \ud83d\ude00", "b": NaN}', {"a": "� 😀", "b": None}),
    ],
)
def test_what_is_nearly_json_is_mended(text: str, expected: Any) -> None:
    file = as_json(Path("a.json"), text.encode())
    assert file.decode(Any) == expected  # type: ignore[arg-type]
    assert len(file.notes) == 1
    assert "not quite JSON" in file.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.json is empty"),
        (b" \n", "a.json is empty"),
        (b'{"a": [1, 2', "cut off: it ends after 11 bytes"),
        (b'{"a": "xy', "cut off: it ends after 9 bytes"),
        (b'{"a": 1, "b', "cut off"),
        (b'{"a": tru', "cut off|no JSON from line 1"),
        (b'{"a": 1}\n{"a": 2}\n', r"several JSON values one after the other \(line 2"),
        (b'{"a": 1\n "b": 2}', r"no JSON from line 2, column 2 on \(near `"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"<!DOCTYPE html><html>", "XML or a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"images:\n - a", "is no JSON: it begins with `images:`"),
        (gzip.compress(SOUND.encode(), mtime=0)[:40], "damaged or cut off: it cannot be unpacked"),
    ],
)
def test_what_is_no_json_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        decoded(data)
    assert "\n" not in str(caught.value)
    assert "a.json" in str(caught.value)


def test_another_form_is_the_callers_business() -> None:
    with pytest.raises(msgspec.ValidationError):
        as_json(Path("a.json"), b"[1]").decode(dict[str, int])
    with pytest.raises(UserError, match="cannot be read"):
        read_json(Path("/nowhere/a.json"))


IMAGE = {"id": 1, "file_name": "a.jpg"}
REGION = {"filename": "a.jpg", "regions": []}


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        ([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}], "COCO results"),
        ([{"data": {"image": "a"}, "annotations": []}], "Label Studio"),
        ([{"image": "a.jpg", "annotations": []}], "CreateML"),
        ([], "an empty list"),
        ([1, 2], "a list of something else"),
        ([{"x": 1}], "a list of objects with `x`"),
        ({"shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
        ({"_via_img_metadata": {}}, "VIA"),
        ({"a.jpg123": REGION, "b.jpg9": REGION}, "VIA"),
        ({"image": {}, "annotations": []}, "SA-1B"),
        ({"info": {}, "items": [], "categories": {}}, "Datumaro"),
        ({"images": [IMAGE]}, "without `annotations`"),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 1, "segments_info": []}]},
            "COCO panoptic",
        ),
        ({"images": [IMAGE], "annotations": [{"image_id": 1, "caption": "a"}]}, "COCO captions"),
        ({"a.jpg": {"size": [1, 1], "counts": ["1"]}}, "convert rle"),
        ({"foo": 1, "bar": 2}, "an object with `foo`, `bar`"),
    ],
)
def test_other_formats_are_named(content: Any, phrase: str) -> None:
    found = kind_of(json.dumps(content).encode())
    assert found is not None
    assert phrase in found


def test_instances_are_no_other_format() -> None:
    instances = {"images": [IMAGE], "annotations": [{"image_id": 1, "segmentation": [[1, 2]]}]}
    assert kind_of(json.dumps(instances).encode()) is None
    assert kind_of(b"{") is None
