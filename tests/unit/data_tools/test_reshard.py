"""Resharding: against pycocotools and Pillow, stopped and damaged on the way."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.reshard import main
from data_tools.reshard_plan import cut
from data_tools.reshard_run import Journal, PlannedShard, write_part, write_parts
from data_tools.reshard_sample import Size, remake
from data_tools.subset import main as subset
from data_tools.subset import rank
from sam_train.data.shards.groups_file import groups_of, write_groups
from sam_train.data.shards.reader import open_shards
from sam_train.data.shards.writer import ShardSample, TarEntry, annotate_masks, write_entries
from sam_train.errors import UserError

H, W = 45, 64


def blobs(rng: np.random.Generator, count: int, *, height: int = H, width: int = W) -> Any:
    """bool [count, H, W]: smooth random shapes with holes, thin parts and several pieces."""
    noise = rng.normal(size=(count, -(-height // 4), -(-width // 4)))
    large = noise.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    fine = rng.random((count, height, width)) < 0.02
    return (large > 0.3) ^ fine


def make_entry(number: int, *, height: int = H, width: int = W, masks: int = 3) -> TarEntry:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(jpeg, "JPEG", quality=95)
    sample = ShardSample(
        image_id=number,
        jpeg=jpeg.getvalue(),
        width=width,
        height=height,
        annotations=annotate_masks(
            blobs(rng, masks, height=height, width=width), first_id=100 * number
        ),
    )
    content = json.dumps(sample.record).encode()
    return TarEntry(key=f"sa_{number}", jpeg=sample.jpeg, json=content)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """40 samples in two shards."""
    folder = tmp_path / "source"
    folder.mkdir()
    write_entries((make_entry(n) for n in range(1, 26)), folder / "a.tar")
    write_entries((make_entry(n) for n in range(26, 41)), folder / "b.tar")
    return folder


def run(*args: object, workers: int = 0) -> int:
    return main([*map(str, args), "--workers", str(workers)])


def read(folder: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """key -> (JPEG, JSON) of all shards, in order."""
    found: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for jpg, js in zip(members[::2], members[1::2], strict=True):
                image, text = tar.extractfile(jpg), tar.extractfile(js)
                assert image is not None and text is not None
                found[jpg.name.removesuffix(".jpg")] = (image.read(), json.load(text))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


# --- one sample -------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "side"), [(45, 64, 32), (90, 61, 47), (33, 51, 46)])
def test_masks_are_pillows_nearest(height: int, width: int, side: int) -> None:
    entry = make_entry(5, height=height, width=width, masks=12)
    result = remake(entry, name="x", size=Size(long_side=side))
    assert result.entry is not None
    before = json.loads(entry.json)["annotations"]
    after = json.loads(result.entry.json)
    photo = Image.open(io.BytesIO(result.entry.jpeg))
    assert max(photo.size) == side
    assert (after["image"]["width"], after["image"]["height"]) == photo.size
    assert len(after["annotations"]) == result.masks == 12
    for old, new in zip(before, after["annotations"], strict=True):
        mask = coco_mask.decode(old["segmentation"])
        expected = np.asarray(Image.fromarray(mask).resize(photo.size, Image.Resampling.NEAREST))
        found = coco_mask.decode(new["segmentation"])
        np.testing.assert_array_equal(found, expected)
        ys, xs = np.nonzero(expected)
        assert new["area"] == len(xs)
        assert new["bbox"] == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
        # Byte for byte what pycocotools itself writes for that mask.
        again = coco_mask.encode(np.asfortranarray(expected))
        assert new["segmentation"]["counts"] == again["counts"].decode()


def test_positions_scale_and_everything_else_stays() -> None:
    entry = make_entry(3)
    record = json.loads(entry.json)
    first = record["annotations"][0]
    first |= {"point_coords": [[63.5, 22.25]], "crop_box": [8.0, 9.0, 32.0, 27.0]}
    first |= {"predicted_iou": 0.93, "stability_score": 0.97, "note": {"by": "somebody"}}
    entry = TarEntry(key=entry.key, jpeg=entry.jpeg, json=json.dumps(record).encode())
    result = remake(entry, name="x", size=Size(long_side=32)).entry
    assert result is not None
    assert result.key == "sa_3"
    found = json.loads(result.json)
    # 45 x 64 becomes 23 x 32: the shorter side is rounded, so each axis has its own scale.
    assert found["image"] == record["image"] | {"height": 23, "width": 32}
    new = found["annotations"][0]
    assert new["point_coords"] == pytest.approx(np.array([[63.5 / 2, 22.25 * 23 / 45]]))
    assert new["crop_box"] == pytest.approx([4.0, 9 * 23 / 45, 16.0, 27 * 23 / 45])
    same = ("id", "predicted_iou", "stability_score", "note")
    assert {key: new[key] for key in same} == {key: first[key] for key in same}
    assert list(new) == list(first)


def test_the_photo_is_pillows_antialiased_one() -> None:
    entry = make_entry(4)
    result = remake(entry, name="x", size=Size(long_side=32, quality=100)).entry
    assert result is not None
    original = Image.open(io.BytesIO(entry.jpeg))
    small = original.resize((32, 23), Image.Resampling.BILINEAR)
    # Only the brightness: the colours of a JPEG have half the resolution.
    expected = np.asarray(small.convert("L")).astype(int)
    found = np.asarray(Image.open(io.BytesIO(result.jpeg)).convert("L")).astype(int)
    assert np.abs(found - expected).mean() < 2
    nearest = original.resize((32, 23), Image.Resampling.NEAREST).convert("L")
    assert np.abs(found - np.asarray(nearest)).mean() > 3


def test_small_photos_keep_their_bytes() -> None:
    entry = make_entry(6)
    for size in (Size(), Size(long_side=W), Size(long_side=1024)):
        assert remake(entry, name="x", size=size).entry == entry


def test_what_is_damaged_is_left_out_and_named() -> None:
    entry = make_entry(7, masks=4)
    record = json.loads(entry.json)
    annotations = record["annotations"]
    annotations[0]["segmentation"]["counts"] = "~~~"
    annotations[1]["segmentation"] = encode(single_pixel())
    annotations[2]["crop_box"] = ["left"]
    bad = TarEntry(key="sa_7", jpeg=entry.jpeg, json=json.dumps(record).encode())
    result = remake(bad, name="a.tar/sa_7", size=Size(long_side=32))
    assert result.entry is not None
    assert [a["id"] for a in json.loads(result.entry.json)["annotations"]] == [703]
    assert [(s.kind, s.name.split(" (")[0], s.reason) for s in result.skips] == [
        ("mask", "a.tar/sa_7: annotation 700", "invalid character in the RLE"),
        ("mask", "a.tar/sa_7: annotation 701", "too small for the new size"),
        ("mask", "a.tar/sa_7: annotation 702", "bad point or crop"),
    ]
    record["annotations"] = annotations[:1]
    none_left = TarEntry(key="sa_7", jpeg=entry.jpeg, json=json.dumps(record).encode())
    cut_off = TarEntry(key="sa_7", jpeg=entry.jpeg[: len(entry.jpeg) // 2], json=entry.json)
    no_json = TarEntry(key="sa_7", jpeg=entry.jpeg, json=b'{"annotations": 5}')
    no_jpeg = TarEntry(key="sa_7", jpeg=b"GIF89a", json=entry.json)
    for each in (none_left, cut_off, no_json, no_jpeg):
        result = remake(each, name="x", size=Size(long_side=32))
        assert result.entry is None
        assert [skip.kind for skip in result.skips][-1] == "image"


def single_pixel() -> npt.NDArray[np.uint8]:
    # At half the size, the centre of a pixel lies on every second one: this one has none.
    mask = np.zeros((H, W), dtype=np.uint8)
    mask[0, 0] = 1
    return mask


def encode(mask: npt.NDArray[np.uint8]) -> dict[str, Any]:
    rle: Any = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


# --- shards -----------------------------------------------------------------------------------


def test_smaller_shards_hold_the_same_files(source: Path, tmp_path: Path) -> None:
    assert run(source, "--out", tmp_path / "out", "--samples-per-shard", 12) == 0
    assert sorted(contents(tmp_path / "out")) == [f"sa_{n:06d}.tar" for n in range(4)]
    assert list(read(tmp_path / "out")) == [f"sa_{n}" for n in range(1, 41)]
    assert read(tmp_path / "out") == read(source)
    # Training reads them.
    assert len(open_shards(str(tmp_path / "out"), option="data.train")) == 40


def test_shards_of_a_size(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--long-side", 32, "--shard-size", 0.03)
    assert run(source, "--out", tmp_path / "out", *options, "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    planned = capsys.readouterr().out
    assert run(source, "--out", tmp_path / "out", *options) == 0
    sizes = [len(data) for data in contents(tmp_path / "out").values()]
    assert f"train: 40 samples in {len(sizes)} shards" in planned
    # Tars end in up to 20 empty blocks.
    assert all(20_000 < size < 45_000 for size in sizes[:-1])


def test_cut_leaves_nothing_out() -> None:
    sizes = np.random.default_rng(0).integers(1, 100, 300)
    for ranges in (cut(sizes, samples=7), cut(sizes, size=250), cut(sizes, size=1)):
        assert [k for span in ranges for k in span] == list(range(300))
        assert all(len(span) for span in ranges)
    assert all(sizes[span.start : span.stop].sum() <= 250 for span in cut(sizes, size=250))
    assert cut(np.array([], dtype=np.int64), size=5) == []


def test_splits_follow_the_rule(source: Path, tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    options = ("--fraction", 0.5, "--val-fraction", 0.3, "--val-out", val)
    assert run(source, "--out", train, *options) == 0
    names = [f"sa_{n}" for n in range(1, 41)]
    assert list(read(train)) == [name for name in names if rank(name) < 0.5]
    assert list(read(val)) == [name for name in names if rank(name) >= 0.7]
    # Without --fraction the rest trains, and validation is the same.
    assert run(source, "--out", tmp_path / "all", *options[2:-1], tmp_path / "val2") == 0
    assert set(read(tmp_path / "all")) == set(names) - set(read(val))
    assert contents(tmp_path / "val2") == contents(val)


def test_an_id_list(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ids.txt").write_text("sa_30\nb.tar/sa_28\nsa_3.jpg\nsa_99\n")
    assert run(source, "--out", tmp_path / "out", "--ids", tmp_path / "ids.txt") == 0
    assert list(read(tmp_path / "out")) == ["sa_3", "sa_28", "sa_30"]
    assert "not in these shards: 1 name of --ids: sa_99" in capsys.readouterr().out


def test_the_number_of_workers_leaves_the_bytes_as_they_are(source: Path, tmp_path: Path) -> None:
    options = ("--long-side", 32, "--samples-per-shard", 9)
    assert run(source, "--out", tmp_path / "one", *options) == 0
    assert run(source, "--out", tmp_path / "two", *options, workers=2) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_stopped_run_goes_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--out", out, "--long-side", 32, "--samples-per-shard", 9)
    assert run(source, *options) == 0
    whole = contents(out)
    summary = capsys.readouterr().out.splitlines()[0]
    # Stopped in the middle of the last line of the journal, and one shard was lost.
    lines = (out / "reshard.jsonl").read_bytes()
    (out / "reshard.jsonl").write_bytes(lines[:-10])
    (out / "sa_000001.tar").unlink()
    (out / ".sa_000004.tar.123.part").write_bytes(b"half")
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert run(source, *options) == 0
    assert contents(out) == whole
    assert not list(out.glob(".*"))
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    kept = ["sa_000000.tar", "sa_000002.tar", "sa_000003.tar"]
    assert [after[name] for name in kept] == [times[name] for name in kept]
    assert after["sa_000004.tar"] != times["sa_000004.tar"]
    second = capsys.readouterr().out
    assert "5 shards (3 were there already)" in second
    assert second.splitlines()[0] == summary
    assert run(source, *options) == 0
    assert "(5 were there already)" in capsys.readouterr().out


def test_damage_is_reported_at_the_end_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [make_entry(n) for n in range(1, 7)]
    entries[1] = TarEntry(key="sa_2", jpeg=entries[1].jpeg, json=b"{")
    entries[3] = TarEntry(key="sa_4", jpeg=b"\xff\xd8 no photo", json=entries[3].json)
    source = tmp_path / "a.tar"
    write_entries(entries, source)
    out = tmp_path / "out"
    for _ in range(2):
        assert run(source, "--out", out, "--samples-per-shard", 2) == 1
        text = capsys.readouterr().out
        assert "skipped 1 image, bad_jpeg: a.tar/sa_4" in text
        assert "skipped 1 image, bad_json: a.tar/sa_2" in text
        assert "4 images, 12 masks; skipped 2 images and 0 masks" in text
        assert len((out / "skipped.tsv").read_text().splitlines()) == 3
    assert list(read(out)) == ["sa_1", "sa_3", "sa_5", "sa_6"]


def test_shards_that_vanished_are_tried_again(source: Path, tmp_path: Path) -> None:
    shards = open_shards(str(source), option="SHARDS")
    places = [shards.place(sample) for sample in range(len(shards))]
    parts = [PlannedShard(number=0, places=places[:20]), PlannedShard(number=1, places=places[20:])]
    out = tmp_path / "out"

    def write() -> Any:
        journal = Journal(out, settings={}, digest="")
        return write_parts(iter(parts), total=2, out=out, journal=journal, size=Size(), workers=0)

    (source / "b.tar").rename(tmp_path / "away.tar")
    written = write()
    assert written.tally.images == 25
    assert {skip.reason for skip in written.tally.skips} == {"unreadable"}
    (tmp_path / "away.tar").rename(source / "b.tar")
    written = write()
    assert (written.kept, written.tally.images, written.tally.skips) == (1, 40, [])
    assert read(out) == read(source)


def test_two_samples_of_one_name(source: Path, tmp_path: Path) -> None:
    shards = open_shards(str(source), option="SHARDS")
    done = write_part(
        PlannedShard(number=0, places=[shards.place(0), shards.place(0)]), out=tmp_path, size=Size()
    )
    assert done.samples == 1
    assert [skip.reason for skip in done.skips] == ["duplicate name"]


def test_errors_are_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, "--out", out) == 0
    cases = {
        ("--long-side", "32"): "made with another --long-side",
        ("--fraction", "0.5"): "made with other input",
        ("--val-fraction", "0.1"): "need each other",
        ("--val-fraction", "0.1", "--val-out", str(out)): "must be another folder",
        ("--fraction", "0"): "none of the 40 samples was chosen",
        ("--ids", str(tmp_path / "no.txt")): "--ids: cannot read",
    }
    capsys.readouterr()
    for options, message in cases.items():
        assert run(source, "--out", out, *options) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert run(source, "--out", source) == 2
    assert "holds what this tool did not write" in capsys.readouterr().err
    (out / "reshard.jsonl").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Journal(out, settings={}, digest="")


def test_a_scene_lies_on_one_side_of_a_split(source: Path, tmp_path: Path) -> None:
    scenes = {f"sa_{n}": f"scene {n // 4}" for n in range(1, 37)}  # 37 to 40 have none
    write_groups(source, scenes)
    out, val = tmp_path / "out", tmp_path / "val"
    split = ("--val-fraction", 0.3, "--val-out", val, "--samples-per-shard", 6)
    assert run(source, "--out", out, *split) == 0
    names = {folder: set(read(folder)) for folder in (out, val)}
    # The rule of the page, on the scene's text.
    held_out = {f"sa_{n}" for n in range(1, 41) if rank(scenes.get(f"sa_{n}", f"sa_{n}")) >= 0.7}
    assert names[val] == held_out
    assert names[out] == {f"sa_{n}" for n in range(1, 41)} - held_out
    assert 0 < len(held_out) < 40
    for folder in (out, val):
        shards = open_shards(str(folder), option="data.val")
        found = groups_of(shards, samples=len(shards))
        said = {shards.key(k).rpartition("/")[2]: group for k, group in found.items()}
        assert said == {name: scenes[name] for name in names[folder] if name in scenes}
    lists = tmp_path / "lists"
    subset([str(source), "--val-fraction", "0.3", "--fraction", "0.5", "--out", str(lists)])
    assert set((lists / "val_0.3.txt").read_text().split()) == held_out
