"""`python -m data_tools.verify`: silent about true files, exact about what is wrong with others."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from places import REAL_DATA
from pycocotools import mask as coco_mask

from data_tools.verify import main, verify_shards
from data_tools.verify_checks import check_sample, schema_problems
from data_tools.verify_report import ShardReport, exclusions
from sam_train.data.shards.reader import open_shards
from sam_train.data.shards.writer import annotate_masks

REAL = REAL_DATA / "sa1b"
H, W = 48, 64


def photo(seed: int, *, height: int = H, width: int = W) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def record(n: int, *, masks: int = 3) -> dict[str, Any]:
    drawn = np.zeros((masks, H, W), dtype=bool)
    for k in range(masks):
        drawn[k, 3 * k : 3 * k + 9, n % 7 : n % 7 + 20] = True
    image = {"image_id": n, "width": W, "height": H, "file_name": f"sa_{n}.jpg"}
    return {"image": image, "annotations": annotate_masks(drawn, first_id=100 * n)}


def polygon(document: dict[str, Any]) -> None:
    """In place of run lengths: training reads it."""
    document["annotations"][0]["segmentation"] = [[1, 1, 20, 1, 20, 9]]


def good(*numbers: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for n in numbers:
        files |= {f"sa_{n}.jpg": photo(n), f"sa_{n}.json": json.dumps(record(n)).encode()}
    return files


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def kinds(report: ShardReport) -> dict[str, int]:
    return {kind: finding.count for kind, finding in report.findings.items()}


def changed(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    document = record(1)
    edit(document)
    return json.dumps(document).encode()


def problems_of(text: bytes, *, jpeg: bytes | None = None, decode: bool = False) -> dict[str, int]:
    found = check_sample("sa_1", jpeg or photo(1), text, decode=decode)
    return {kind: len(details) for kind, details in found.problems.items()}


def first_mask(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda d: d["annotations"][0].__setitem__(name, value)


def first_rle(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda d: d["annotations"][0]["segmentation"].__setitem__(name, value)


def test_a_clean_set_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "sa_000000.tar", good(1, 2))
    assert main([str(tmp_path), "--decode", "--workers", "0"]) == 0
    assert "1 shard, 2 samples, 6 masks: nothing wrong was found" in capsys.readouterr().out


def test_annotations_of_the_published_dataset_are_clean() -> None:
    source = REAL / "sa_226381.partial.json"
    if not source.is_file():
        pytest.skip("../shared/data/sa1b is not beside the checkout")
    text = source.read_bytes()
    blank = io.BytesIO()
    Image.new("RGB", (2000, 1500)).save(blank, "JPEG")
    found = check_sample("sa_226381", blank.getvalue(), text, decode=True)
    assert found.problems == {}
    assert found.masks == 21


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (first_mask("area", 12), {"area": 1}),
        (first_mask("area", 180.0), {}),
        (first_mask("area", 180.5), {"schema": 1}),
        (first_mask("area", True), {"schema": 1}),
        (first_mask("bbox", [1.0, 0.0, 20.0, 9.0]), {"bbox": 1}),
        (first_mask("bbox", [1.0, 0.0, 19.0]), {"schema": 1}),
        (first_mask("bbox", [50, 0, 19, 8]), {"bbox": 1, "schema": 1}),
        (first_mask("crop_box", [0.0, 0.0, W + 1.0, H]), {"schema": 1}),
        (first_mask("point_coords", [[1.0, H + 0.5]]), {"schema": 1}),
        (first_mask("point_coords", [[1.0, 1.0], [2.0, 2.0]]), {"schema": 1}),
        (first_mask("predicted_iou", "high"), {"schema": 1}),
        (first_mask("predicted_iou", 1.04), {}),
        (first_mask("predicted_iou", 10**400), {"schema": 1}),
        (first_mask("stability_score", -0.1), {"schema": 1}),
        (first_mask("id", 101), {"repeated_mask_id": 1}),
        (lambda d: d["annotations"][2].pop("crop_box"), {"schema": 1}),
        (lambda d: d["annotations"].append(dict(d["annotations"][0], id=7)), {"repeated_mask": 1}),
        (first_rle("size", [W, H]), {"bad_rle": 1}),
        (first_rle("counts", "~~"), {"bad_rle": 1}),
        (first_rle("counts", "0"), {"bad_rle": 1}),
        (first_rle("counts", "PP3"), {"empty_mask": 1}),
        (lambda d: d["annotations"][0].pop("segmentation"), {"schema": 1, "bad_rle": 1}),
        (polygon, {"schema": 1, "area": 1, "bbox": 1}),
        (lambda d: d.__setitem__("annotations", []), {"no_mask": 1}),
        (lambda d: d["image"].__setitem__("width", W + 1), {"image_size": 1}),
        (lambda d: d["image"].__setitem__("image_id", 3), {"image_name": 1}),
        (lambda d: d["image"].__setitem__("file_name", "sa_2.jpg"), {"image_name": 1}),
        (lambda d: d.pop("image"), {"schema": 1}),
    ],
)
def test_every_field_is_checked(
    edit: Callable[[dict[str, Any]], Any], expected: dict[str, int]
) -> None:
    assert problems_of(changed(edit)) == expected


@pytest.mark.parametrize("text", [b"", b"[1", b"3", b"{}", b"\xff", b"[" * 10_000, b"NaN"])
def test_what_is_no_record_is_one_problem(text: bytes) -> None:
    assert "bad_json" in problems_of(text)


def test_a_photo_is_checked_as_deep_as_asked() -> None:
    text = json.dumps(record(1)).encode()
    whole = photo(1)
    # Without its end marker a photo is decoded in any case, and shows that it was cut.
    assert problems_of(text, jpeg=whole[:-400]) == {"bad_jpeg": 1}
    # Only decoding shows that the quantisation tables are gone.
    headless = whole.replace(b"\xff\xdb", b"\xff\xe5")
    assert problems_of(text, jpeg=headless, decode=False) == {}
    assert problems_of(text, jpeg=headless, decode=True) == {"bad_jpeg": 1}
    # The masks are measured against the size that the JSON states when the photo is unreadable.
    bad = changed(first_mask("area", 12))
    assert problems_of(bad, jpeg=b"no photo") == {"bad_jpeg": 1, "area": 1}
    absurd = bytearray(whole)
    at = absurd.index(b"\xff\xc0") + 5
    absurd[at : at + 4] = b"\xff\xff\xff\xff"
    assert problems_of(text, jpeg=bytes(absurd), decode=True) == {"bad_jpeg": 1}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_area_and_box_mean_what_pycocotools_counts(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((H, W)) < density, dtype=np.uint8)
    mask[rng.integers(H), rng.integers(W)] = 1
    rle = coco_mask.encode(mask)
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    document = record(1, masks=1)
    document["annotations"][0] |= {
        "segmentation": {"size": [H, W], "counts": rle["counts"].decode()},
        "area": int(coco_mask.area(rle)),
        "bbox": [x, y, w - 1, h - 1],
    }
    assert problems_of(json.dumps(document).encode()) == {}
    document["annotations"][0]["bbox"] = [x, y, w, h]
    document["annotations"][0]["area"] += 1
    found = check_sample("sa_1", photo(1), json.dumps(document).encode(), decode=False)
    assert set(found.problems) == {"area", "bbox"}
    assert "as COCO's do" in found.problems["bbox"][0] or x + w > W or y + h > H


def test_damaged_shards_are_reported_and_the_rest_is_checked(tmp_path: Path) -> None:
    clean = write_tar(tmp_path / "a.tar", good(1, 2))
    cut = tmp_path / "cut.tar"
    with tarfile.open(write_tar(tmp_path / "x", good(3, 4))) as tar:
        inside = tar.getmember("sa_4.json").offset_data + 10
    cut.write_bytes((tmp_path / "x").read_bytes()[:inside])
    odd = tmp_path / "odd.tar"
    files = good(5) | {"sa_6.jpg": photo(6), "sa_7.json": b"{}", "../evil.jpg": b"x"}
    write_tar(odd, files)
    with tarfile.open(odd, "a") as tar:
        link = tarfile.TarInfo("sa_8.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("sa_5.json", "./sa_5.json"):
            info = tarfile.TarInfo(name)
            info.size = len(files["sa_5.json"])
            tar.addfile(info, io.BytesIO(files["sa_5.json"]))
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"\x01" * 2000)
    paths = [str(p) for p in (clean, cut, odd, junk, tmp_path / "none.tar")]
    reports = verify_shards(paths)
    assert [kinds(report) for report in reports] == [
        {},
        {"cut_shard": 1, "photo_without_json": 1},
        {
            "photo_without_json": 1, "json_without_photo": 1, "repeated_member": 1,
            "refused_member": 2,
        },
        {"cut_shard": 1, "no_sample": 1},
        {"unreadable_shard": 1},
    ]  # fmt: skip
    assert [report.keys for report in reports] == [["sa_1", "sa_2"], ["sa_3"], ["sa_5"], [], []]


def test_repeats_are_found_over_all_shards_and_the_first_stays(tmp_path: Path) -> None:
    same_photo = {"sa_3.jpg": photo(1), "sa_3.json": json.dumps(record(3)).encode()}
    same_id = {"sa_4.jpg": photo(4), "sa_4.json": json.dumps(record(2)).encode()}
    paths = [
        str(write_tar(tmp_path / "a.tar", good(1, 2))),
        str(write_tar(tmp_path / "b.tar", same_photo | same_id)),
        str(write_tar(tmp_path / "c.tar", good(2))),
    ]
    reports = verify_shards(paths)
    assert exclusions(reports) == ["b.tar/sa_3", "b.tar/sa_4", "c.tar/sa_2"]
    assert reports[1].unusable == {"sa_3": ["repeated_photo"], "sa_4": ["repeated_image_id"]}
    assert set(reports[2].unusable["sa_2"]) == {
        "repeated_key", "repeated_image_id", "repeated_photo",
    }  # fmt: skip
    assert reports[1].findings["repeated_photo"].examples == [f"sa_3: as {paths[0]}/sa_1"]


def test_training_takes_the_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = good(1, 2, 3) | {"sa_2.jpg": b"damaged", "sa_4.jpg": photo(4), "sa_4.json": b"{"}
    shard = write_tar(tmp_path / "sa_000007.tar", files)
    report, exclude = tmp_path / "out/report.json", tmp_path / "out/exclude.txt"
    options = ["--report", str(report), "--exclude", str(exclude), "--workers", "0"]
    assert main([str(shard), *options]) == 1
    assert "bad_jpeg: 1 in 1 sample" in capsys.readouterr().out
    for given_list in (report, exclude):
        shards = open_shards(str(shard), option="data.train", exclude=str(given_list))
        assert [shards.key(k).rsplit("/", 1)[1] for k in range(len(shards))] == ["sa_1", "sa_3"]
    written = json.loads(report.read_text())
    assert written["samples"] == 4
    assert written["per_shard"][0]["problems"]["bad_json"]["count"] == 1
    assert written["per_shard"][0]["excluded"][0] == {"key": "sa_2", "problems": ["bad_jpeg"]}


def test_a_second_run_reads_only_what_changed(tmp_path: Path) -> None:
    a = write_tar(tmp_path / "a.tar", good(1, 2))
    b = write_tar(tmp_path / "b.tar", good(3) | {"sa_4.jpg": b"x", "sa_4.json": b"{"})
    paths, parts = [str(a), str(b)], tmp_path / "parts"
    once = verify_shards(paths, parts=parts)
    # Different content behind an unchanged size and time: only a run that reads it would see it.
    times = a.stat().st_mtime_ns
    a.write_bytes(bytes(a.stat().st_size))
    os.utime(a, ns=(times, times))
    again = verify_shards(paths, parts=parts)
    assert [r.as_json() for r in again] == [r.as_json() for r in once]
    assert kinds(verify_shards(paths, parts=parts, fresh=True)[0]) == {"no_sample": 1}
    write_tar(b, good(3))
    assert kinds(verify_shards(paths, parts=parts)[1]) == {}


def test_processes_find_the_same(tmp_path: Path) -> None:
    files = good(*range(1, 140)) | {"sa_70.jpg": b"damaged", "sa_139.json": b"{}"}
    path = str(write_tar(tmp_path / "a.tar", files))
    alone, together = (verify_shards([path], workers=n)[0] for n in (0, 2))
    assert alone.as_json() == together.as_json()
    assert np.array_equal(alone.identities, together.identities)
    assert alone.keys == together.keys == [f"sa_{n}" for n in range(1, 140)]


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--workers", "0"]) == 2
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "a.tar", good(1))
    twice = [str(tmp_path / "x"), str(tmp_path / "y")]
    assert main([*twice, "--exclude", str(tmp_path / "e.txt"), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert "could not tell them apart" in error


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*record(1)["annotations"][0], "size"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_json_value_breaks_the_schema_check(value: object) -> None:
    assert all(isinstance(line, str) for line in schema_problems(value, size=(H, W)))
