"""COCO files as other programs write them: the same masks as pycocotools makes of the plain file,
and everything else counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.convert import main
from sam_train.data.formats.coco import Coco, CocoRecord
from sam_train.data.formats.coco_file import read_coco
from sam_train.data.formats.ids import IdIndex, as_id, as_number, sort_key
from sam_train.data.formats.records import Listing
from sam_train.data.formats.segmentation import parse_segmentation

H, W = 24, 32
POLYGON = [3.2, 4.1, 20.7, 5.0, 15.5, 19.9]
SECOND = [22.0, 2.0, 30.0, 2.0, 30.0, 8.5, 22.0, 8.5]


def image(number: Any, name: Any = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": H, "width": W, **more}


def annotation(number: Any, of: Any = 7, polygon: Any = None, **more: Any) -> dict[str, Any]:
    segmentation = [POLYGON] if polygon is None else polygon
    return {"id": number, "image_id": of, "segmentation": segmentation, **more}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (W, H), "red").save(folder / name)
    return folder


@pytest.fixture
def listed(photos: Path) -> Callable[..., Listing]:
    """Lists a file of these images and annotations; the text as it stands if one is given."""

    def listed(images: Any, annotations: Any = (), *, text: str = "", **more: Any) -> Listing:
        path = photos.parent / "t.json"
        content = {"images": images, "annotations": list(annotations), **more}
        path.write_text(text or json.dumps(content))
        return Coco().list(photos, path)

    return listed


def rasterised(polygons: list[list[float]], size: tuple[int, int] = (H, W)) -> npt.NDArray[Any]:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))


def masks(listing: Listing) -> dict[str, list[npt.NDArray[Any]]]:
    return {
        record.name: [coco_mask.decode(mask.segmentation) for mask in record.masks().masks]
        for record in listing.records
        if isinstance(record, CocoRecord) and record.missing is None
    }


def reasons(listing: Listing) -> Counter[tuple[str, str]]:
    skips = [*listing.skips]
    for record in listing.records:
        if isinstance(record, CocoRecord) and record.missing is None:
            skips += record.masks().skips
    return Counter((skip.kind, skip.reason) for skip in skips)


# --- ids and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "given"),
    [
        *((7, "7"), ("7", 7), (7.0, 7), (7, 7.0), ("7.0", 7), (7, "007"), ("007", 7)),
        *(("x", " x "), (0, "0"), (-3, "-3"), (2**70, str(2**70)), ("img_7", "img_7")),
    ],
)
def test_the_same_id_is_the_same_id(listed: Callable[..., Listing], own: Any, given: Any) -> None:
    listing = listed([image(own)], [annotation(1, given)])
    assert not listing.skips
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


@pytest.mark.parametrize(
    "given", [8, "8", None, True, False, [], {}, "", 7.5, "seven", "\u0667", "7_0"]
)
def test_another_id_is_another_id(listed: Callable[..., Listing], given: Any) -> None:
    listing = listed([image(7)], [annotation(1, given)])
    assert reasons(listing) == {("mask", "unknown image_id"): 1}


def test_number_and_text_side_by_side_are_two_ids(listed: Callable[..., Listing]) -> None:
    images = [image(7), image("7", "b.jpg")]
    listing = listed(images, [annotation(1, "7"), annotation(2, 7, [SECOND]), annotation(3, "07")])
    found = masks(listing)
    np.testing.assert_array_equal(found["a.jpg"], [rasterised([SECOND])])
    np.testing.assert_array_equal(found["b.jpg"], [rasterised([POLYGON])])
    assert reasons(listing) == {("mask", "several images have its image_id"): 1}


def test_annotation_ids_are_kept_or_numbered(listed: Callable[..., Listing]) -> None:
    ids = [5, "6", 7.0, "x-1", None, 5, "8.5", True, 2**80, -2]
    places = [[0, 0, 9, 0, 9, n + 2] for n in range(len(ids))]
    items = [annotation(i, 7, [p]) for i, p in zip(ids, places, strict=True)]
    del items[4]["id"]
    listing = listed([image(7)], items)
    record = listing.records[0]
    read = record.masks()
    assert [mask.id for mask in read.masks] == [5, 6, 7, 8, 9, 10, 11, 12, 13, -2]
    assert [mask.name.split()[-1] for mask in read.masks][:4] == ["5", "6", "7", "x-1"]
    assert "6 of 10 annotations have no id" in listing.notes[0]
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([p]) for p in places])


def test_the_same_annotation_twice_counts_once(listed: Callable[..., Listing]) -> None:
    listing = listed([image(7)], [annotation(5), annotation(5), annotation(6)])
    assert reasons(listing) == {("mask", "listed twice"): 1}
    assert len(masks(listing)["a.jpg"]) == 2


@pytest.mark.parametrize(
    "size",
    [
        {"height": float(H), "width": float(W)},
        {"height": str(H), "width": f"{W}.0"},
        {"height": None, "width": None},
        {"height": 0, "width": 0},
        {"height": "unknown", "width": []},
        {"height": -1, "width": True},
        {"height": 1e300, "width": W},
    ],
)
def test_sizes_are_read_or_the_photos(listed: Callable[..., Listing], size: Any) -> None:
    listing = listed([image(7, **size)], [annotation(1)])
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


def test_a_missing_size_is_the_upright_photos(photos: Path, listed: Callable[..., Listing]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (H, W)).save(photos / "a.jpg", exif=exif)
    listing = listed([{"id": 7, "file_name": "a.jpg"}], [annotation(1)])
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


# --- one odd value ----------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["NaN", "-Infinity", "1e999", "null", '"x"', "[]", '{"a": [1]}'])
def test_an_odd_value_that_nobody_needs(listed: Callable[..., Listing], odd: str) -> None:
    fields = [
        f'{{"images": [{{"id": 7, "file_name": "a.jpg", "height": {H}, "width": {W}, '
        f'"license": {odd}, "date_captured": {odd}, "coco_url": {odd}}}], '
        f'"info": {odd}, "categories": {odd}, "annotations": [{{"id": 1, "image_id": 7, '
        f'"area": {odd}, "bbox": {odd}, "category_id": {odd}, "iscrowd": {odd}, "x": {odd}, '
        f'"segmentation": [{POLYGON}]}}]}}'
    ]
    listing = listed([], text=fields[0])
    assert not listing.skips
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


def test_a_coordinate_that_is_no_number_costs_one_mask(listed: Callable[..., Listing]) -> None:
    text = json.dumps({"images": [image(7)], "annotations": [annotation(1), annotation(2)]})
    listing = listed([], text=text.replace("20.7", "NaN", 1))
    assert reasons(listing) == {("mask", "bad segmentation"): 1}
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


def test_entries_that_are_none_are_counted(listed: Callable[..., Listing]) -> None:
    listing = listed([image(7), None, "b.jpg"], [annotation(1), None, 3, [annotation(2)]])
    assert reasons(listing) == {("image", "unreadable entry"): 2, ("mask", "unreadable entry"): 3}
    assert len(masks(listing)["a.jpg"]) == 1


@pytest.mark.parametrize(
    ("crowd", "is_one"),
    [
        *((yes, True) for yes in (1, True, "1", 1.0, "true", "yes")),
        *((no, False) for no in (0, False, "0", None, "false", 0.0, "", [])),
    ],
)
def test_crowds_by_any_word_and_on_request(photos: Path, crowd: Any, is_one: bool) -> None:
    path = photos.parent / "t.json"
    content = {"images": [image(7)], "annotations": [annotation(1, iscrowd=crowd)]}
    path.write_text(json.dumps(content))
    assert reasons(Coco().list(photos, path)) == ({("mask", "crowd"): 1} if is_one else {})
    with_crowds = Coco(crowds=True).list(photos, path)
    assert not reasons(with_crowds)
    assert len(masks(with_crowds)["a.jpg"]) == 1


# --- segmentations ----------------------------------------------------------------------------


def pairs(polygon: list[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(polygon[::2], polygon[1::2], strict=True)]


def points(polygon: list[float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in pairs(polygon)]


def compressed(mask: npt.NDArray[Any]) -> str:
    text: str = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    return text


def runs(mask: npt.NDArray[Any]) -> list[int]:
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    lengths: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return lengths


BOTH = rasterised([POLYGON, SECOND])
SIZE = [H, W]


@pytest.mark.parametrize(
    "form",
    [
        [POLYGON, SECOND],
        [[str(v) for v in POLYGON], SECOND],
        [pairs(POLYGON), pairs(SECOND)],
        [points(POLYGON), points(SECOND)],
        [POLYGON, pairs(SECOND)],
        [[[pair] for pair in pairs(POLYGON)], [[pair] for pair in pairs(SECOND)]],
        [[POLYGON], [SECOND]],
        [POLYGON, SECOND, [], [1.0, 2.0]],
        json.dumps([POLYGON, SECOND]),
        {"size": SIZE, "counts": runs(BOTH)},
        {"size": SIZE, "counts": [float(n) for n in runs(BOTH)]},
        {"size": SIZE, "counts": [str(n) for n in runs(BOTH)]},
        {"size": SIZE, "counts": compressed(BOTH)},
        {"size": [float(H), str(W)], "counts": compressed(BOTH)},
        {"size": SIZE, "counts": repr(compressed(BOTH).encode())},
        {"size": SIZE, "counts": json.dumps(runs(BOTH))},
        {"counts": compressed(BOTH)},
        [{"size": SIZE, "counts": compressed(BOTH)}],
        [{"size": SIZE, "counts": runs(rasterised([p]))} for p in (POLYGON, SECOND)],
        json.dumps({"size": SIZE, "counts": compressed(BOTH)}),
    ],
)
def test_every_form_of_a_segmentation(form: Any) -> None:
    found = parse_segmentation(json.dumps(form).encode(), H, W)
    assert found["size"] == SIZE
    np.testing.assert_array_equal(coco_mask.decode(found), BOTH)


@pytest.mark.parametrize("form", [POLYGON, pairs(POLYGON), points(POLYGON), [[POLYGON]]])
def test_a_single_polygon(form: Any) -> None:
    found = parse_segmentation(json.dumps(form).encode(), H, W)
    np.testing.assert_array_equal(coco_mask.decode(found), rasterised([POLYGON]))


@pytest.mark.parametrize(
    "form",
    [
        "mask.png",
        7,
        True,
        [[1, 2, 3, 4]],
        [1, 2, 3, 4],
        [[1, 2], [3, 4]],
        [[1, 2, 3, 4, 5]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, None, 0, 9, 9]],
        [["a", 0, 5, 0, 9, 9]],
        [[0, 0, 9, 0, 9, 9, 0]],
        [{"x": 1}, {"x": 2}, {"y": 3}],
        {"size": SIZE},
        {"counts": None, "size": SIZE},
        {"size": SIZE, "counts": [0, H * W + 1]},
        {"size": SIZE, "counts": [0.5, H * W - 0.5]},
        {"size": SIZE, "counts": "b'unfinished"},
        {"size": [H], "counts": [0, H]},
        [{"size": SIZE, "counts": [H * W]}, POLYGON],
        [{"size": SIZE, "counts": [H * W]}, {"size": [W, H], "counts": [H * W]}],
        [[[[[[POLYGON]]]]]],
    ],
)
def test_what_is_no_segmentation_is_refused(form: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_segmentation(json.dumps(form).encode(), H, W)


@pytest.mark.parametrize("nothing", [None, [], {}, "", [[]]])
def test_none_at_all_is_a_reason_of_its_own(listed: Callable[..., Listing], nothing: Any) -> None:
    without = {"id": 3, "image_id": 7}
    items = [annotation(1, segmentation=nothing), annotation(2, segmentation=nothing), without]
    items[1]["bbox"] = [1, 2, 3, "4"]
    items.append(annotation(4))
    assert reasons(listed([image(7)], items)) == {
        ("mask", "no segmentation"): 2,
        ("mask", "no segmentation, box only"): 1,
    }


# --- fractions --------------------------------------------------------------------------------


def fractions(polygon: list[float]) -> list[float]:
    return [value / side for pair in pairs(polygon) for value, side in zip(pair, (W, H))]  # noqa: B905


def test_fractions_are_scaled_and_said_once(listed: Callable[..., Listing]) -> None:
    own = [fractions(POLYGON), fractions([0, 0, W, 0, W, H])]
    items = [annotation(1, 7, [own[0]]), annotation(2, 8, [pairs(own[1])])]
    items.append(annotation(3, 8, {"size": SIZE, "counts": compressed(BOTH)}))
    listing = listed([image(7), image(8, "b.jpg", height=None)], items)
    assert listing.notes == [
        "t.json has coordinates from 0 to 1: they are taken as fractions of each photo's width "
        "and height"
    ]
    scaled = [[v * side for p in pairs(o) for v, side in zip(p, (W, H))] for o in own]  # noqa: B905
    found = masks(listing)
    np.testing.assert_array_equal(found["a.jpg"], [rasterised([scaled[0]])])
    np.testing.assert_array_equal(found["b.jpg"], [rasterised([scaled[1]]), BOTH])
    assert found["a.jpg"][0].sum() == pytest.approx(rasterised([POLYGON]).sum(), abs=2)


def test_one_polygon_of_pixels_makes_a_file_of_pixels(listed: Callable[..., Listing]) -> None:
    corner = [0, 0, 1, 0, 1, 1, 0, 1]
    listing = listed([image(7)], [annotation(1, 7, [corner]), annotation(2)])
    assert listing.notes == []
    np.testing.assert_array_equal(
        masks(listing)["a.jpg"], [rasterised([corner]), rasterised([POLYGON])]
    )


def test_fractions_among_pixels_are_counted(listed: Callable[..., Listing]) -> None:
    items = [annotation(1, 7, [fractions(POLYGON)]), annotation(2)]
    for both in (items, items[::-1]):
        listing = listed([image(7)], both)
        assert reasons(listing) == {("mask", "bad segmentation"): 1}
        np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([POLYGON])])


def test_photos_of_a_few_pixels_have_pixels(photos: Path, listed: Callable[..., Listing]) -> None:
    Image.new("RGB", (2, 2)).save(photos / "a.jpg")
    corner = [0, 0, 1, 0, 1, 1, 0, 1]
    listing = listed([image(7, height=2, width=2)], [annotation(1, 7, [corner])])
    np.testing.assert_array_equal(masks(listing)["a.jpg"], [rasterised([corner], (2, 2))])


# --- photos -----------------------------------------------------------------------------------


def test_entries_of_one_photo_are_one_photo(listed: Callable[..., Listing]) -> None:
    images = [image(1), image(2, "./a.jpg"), image(3, "b.jpg"), image(4, "D:\\set\\a.jpg")]
    items = [annotation(n, n, [[0, 0, 9, 0, 9, n + 3]]) for n in range(1, 5)]
    # Repeated under another entry, as programs with an entry for each object do.
    items.append(annotation(9, 2, [[0, 0, 9, 0, 9, 4]]))
    listing = listed([*images[:3]], items[:3] + items[4:])
    assert [record.name for record in listing.records] == ["a.jpg", "b.jpg"]
    assert [len(found) for found in masks(listing).values()] == [2, 1]
    assert reasons(listing) == {("mask", "listed twice"): 1}
    assert "1 of 3 entries of `images` name a photo that stands there already" in listing.notes[0]


def test_an_entry_of_another_size_does_not_take_the_photo(photos: Path) -> None:
    images = [image(1), image(2, height=H * 2, width=W * 2), image(3)]
    items = [annotation(n, n, [[0, 0, 9, 0, 9, n + 3]]) for n in range(1, 4)]
    path = photos.parent / "t.json"
    path.write_text(json.dumps({"images": images, "annotations": items}))
    out = photos.parent / "out"
    command = ["coco", "--images", photos, "--annotations", path, "--out", out, "--workers", "0"]
    assert main([*map(str, command)]) == 0
    rows = (out / "skipped.tsv").read_text().splitlines()[1:]
    assert rows == [
        "image\tno annotation belongs to it\tb.jpg",
        "mask\tsize differs from the image's\ta.jpg: annotation 2 (64 x 48, image 32 x 24)",
    ]


def test_the_same_id_for_two_photos(listed: Callable[..., Listing]) -> None:
    images = [image(7), image(7, "b.jpg"), image(8), image(8)]
    listing = listed(images, [annotation(1, 7), annotation(2, 8)])
    assert reasons(listing) == {
        ("image", "several images have its id"): 2,
        ("mask", "several images have its image_id"): 1,
        ("image", "listed twice"): 1,
    }
    assert [record.name for record in listing.records] == ["a.jpg"]


@pytest.mark.parametrize(
    "entry",
    [
        {"file_name": None, "coco_url": "http://x.org/train2017/a.jpg"},
        {"file_name": "", "flickr_url": "https://x.org/1/a.jpg?s=2"},
        {"filename": "a.jpg"},
        {"path": "/datasets/one/a.jpg"},
    ],
)
def test_photos_named_otherwise(listed: Callable[..., Listing], entry: dict[str, Any]) -> None:
    listing = listed([{"id": 7, "height": H, "width": W, **entry}], [annotation(1)])
    assert [record.image.name for record in listing.records] == ["a.jpg"]
    assert len(masks(listing)) == 1


def test_everything_listed_is_used_or_counted(photos: Path) -> None:
    """In = used + left out, with one fault of each kind."""
    (photos / "broken.jpg").write_bytes(b"no picture")
    images = [image(1), image(2, "b.jpg"), image(3, "b.jpg"), image(4, "gone.jpg")]
    images += [image(5, "broken.jpg"), image(6, None), image(8, "a.jpg"), image(8, "b.jpg"), None]
    full = {"size": [5, 5], "counts": [0, 25]}
    items = [annotation(n, n) for n in (1, 2, 3, 4, 5, 6, 8)]
    items += [annotation(11, 1, []), annotation(12, 1, [[1, 2]]), annotation(13, 1, full)]
    items += [annotation(14, 1, iscrowd=1), annotation(15, 99), annotation(1, 1), None]
    items += [annotation(16, 1, [[0, 0, 0, 0, 0, 0]])]
    path = photos.parent / "t.json"
    path.write_text(json.dumps({"images": images, "annotations": items}))
    out = photos.parent / "out"
    command = ["coco", "--images", photos, "--annotations", path, "--out", out, "--workers", "0"]
    assert main([*map(str, command)]) == 0
    stamp = json.loads((out / "convert.json").read_text())
    rows = (out / "skipped.tsv").read_text().splitlines()[1:]
    left = Counter(row.split("\t")[0] for row in rows)
    assert stamp["masks"] + left["mask"] == len(items)
    # Two entries of b.jpg are one photo.
    assert stamp["images"] + left["image"] == len(images) - 1
    assert stamp["images"] == 2


def test_notes_are_printed_again_when_nothing_is_to_do(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photos.parent / "t.json"
    path.write_text(json.dumps({"images": [image(7, "c:\\a.jpg")], "annotations": [annotation(1)]}))
    out = photos.parent / "out"
    command = ["coco", "--images", photos, "--annotations", path, "--out", out, "--workers", "0"]
    for _ in range(2):
        assert main([*map(str, command)]) == 0
        said = capsys.readouterr().out
        assert said.startswith("note: the photo lies under another name than the file gives")
        assert "1 image, 1 mask; skipped 1 image and 0 masks" in said
    assert "nothing to do" in said


# --- properties -------------------------------------------------------------------------------

IDS = st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=8), st.floats(), st.none())


@given(st.lists(IDS, max_size=6), IDS)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_an_id_is_found_where_it_stands(ids: list[Any], value: Any) -> None:
    index = IdIndex(as_id(one) for one in ids)
    for place, one in enumerate(ids):
        if as_id(one) is not None:
            assert place in index.find(one)
            if (number := as_number(one)) is not None:
                assert index.find(str(number))
    for place in index.find(value):
        assert as_id(ids[place]) == as_id(value) or as_number(ids[place]) == as_number(value)
    sorted((one for one in map(as_id, ids) if one is not None), key=sort_key)


NUMBERS = st.one_of(st.integers(-5, 60), st.floats(-5, 60), st.sampled_from(["3", None, "x", 1e9]))
FORMS = st.recursive(
    NUMBERS | st.just(POLYGON) | st.fixed_dictionaries({"size": st.just(SIZE), "counts": NUMBERS}),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "y", "size", "counts"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(FORMS)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_any_segmentation_is_a_mask_or_a_value_error(form: Any) -> None:
    try:
        found = parse_segmentation(json.dumps(form).encode(), H, W)
    except (ValueError, OverflowError) as error:
        assert "\n" not in str(error)
        return
    height, width = found["size"]
    assert coco_mask.decode(found).shape == (height, width)


def test_reading_does_not_change_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    content = {"images": [image(7)], "annotations": [annotation(1)], "categories": []}
    path.write_text(json.dumps(content))
    file = read_coco(path)
    assert (file.notes, file.skips, file.normalised) == ([], [], False)
    assert file.images[0].names == ("a.jpg",)
