"""Close-ups are cut-outs of a drawing: found again in it by search, mask by mask."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_tools.sample import SampleConfig, draw_sample, run, write_sample
from data_tools.scenes import Scene, close_up, render_scene
from sam_train.data.shards.groups_file import read_groups
from sam_train.errors import UserError

SIDE, ZOOM, SEED = 96, 2.0, 7
SHOTS = 4
"""Photos of one drawing: zoom squared."""


def photo(index: int) -> Scene:
    return close_up(SEED, index, height=SIDE, width=SIDE, zoom=ZOOM)


def find(part: npt.NDArray[np.uint8], whole: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """The one place (top, left) of `whole` where `part` lies, by looking at every place."""
    rows, columns = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (columns,), axis=1)
    fits = (windows == part[0, :, 0]).all(-1)
    places = [
        (int(top), int(left))
        for top, left in np.argwhere(fits)
        if np.array_equal(whole[top : top + rows, left : left + columns], part)
    ]
    assert len(places) == 1
    return places[0]


@pytest.fixture(scope="module")
def drawings() -> list[Scene]:
    side = round(SIDE * ZOOM)
    return [render_scene(SEED, number, height=side, width=side) for number in range(3)]


@pytest.fixture(scope="module")
def photos() -> list[Scene]:
    return [photo(index) for index in range(3 * SHOTS)]


def test_a_photo_is_a_window_of_its_drawing(drawings: list[Scene], photos: list[Scene]) -> None:
    for index, shot in enumerate(photos):
        assert shot.image.shape == (SIDE, SIDE, 3)
        find(shot.image, drawings[index // SHOTS].image)
        assert shot.jpeg_quality == drawings[index // SHOTS].jpeg_quality


def test_masks_are_those_of_the_drawing_in_their_order_with_their_wholes(
    drawings: list[Scene], photos: list[Scene]
) -> None:
    kept, cut, related = 0, 0, 0
    for index, shot in enumerate(photos):
        whole = drawings[index // SHOTS]
        top, left = find(shot.image, whole.image)
        window = whole.masks[:, top : top + SIDE, left : left + SIDE]
        assert shot.masks.shape == (len(shot.parents), SIDE, SIDE)
        shown, areas = window.sum((1, 2)), whole.masks.sum((1, 2))
        olds = [
            old
            for old, (seen, area) in enumerate(zip(shown, areas, strict=True))
            if seen < 0.9 * SIDE**2
            and (seen == area or (seen >= 64 * SIDE**2 / 256**2 and seen >= 0.2 * area))
        ]
        np.testing.assert_array_equal(shot.masks, window[olds])
        for old, parent in zip(olds, shot.parents, strict=True):
            expected = olds.index(whole.parents[old]) if whole.parents[old] in olds else -1
            assert parent == expected
            related += parent >= 0
        cut += int((shown[olds] < areas[olds]).sum())
        kept += len(olds)
    # Enough of each kind that none of the above holds for want of cases.
    assert kept > 40
    assert cut > 10
    assert related > 10


def test_no_mask_is_empty_or_nearly_everything(photos: list[Scene]) -> None:
    shares = np.concatenate([shot.masks.mean((1, 2)) for shot in photos])
    assert shares.min() > 0
    assert shares.max() < 0.9


def test_the_order_in_which_photos_are_taken_changes_nothing(photos: list[Scene]) -> None:
    # Backwards, so that the drawing kept from the photo before is the wrong one in between.
    for index in (9, 2, 6, 1):
        again = photo(index)
        np.testing.assert_array_equal(again.image, photos[index].image)
        np.testing.assert_array_equal(again.masks, photos[index].masks)
        assert again.parents == photos[index].parents


def test_photos_of_one_drawing_differ(photos: list[Scene]) -> None:
    assert len({shot.image.tobytes() for shot in photos}) == len(photos)


def test_zoom_1_is_the_whole_scene() -> None:
    near = close_up(SEED, 5, height=64, width=80, zoom=1)
    whole = render_scene(SEED, 5, height=64, width=80)
    np.testing.assert_array_equal(near.image, whole.image)
    np.testing.assert_array_equal(near.masks, whole.masks)


def test_a_zoom_that_is_no_whole_number_and_a_photo_that_is_no_square() -> None:
    shot = close_up(SEED, 3, height=48, width=80, zoom=1.5)
    whole = render_scene(SEED, 1, height=72, width=120)  # floor(1.5^2) = 2 photos each
    assert shot.image.shape == (48, 80, 3)
    find(shot.image, whole.image)


def test_ids_of_annotations_are_unique_over_photos_of_one_drawing() -> None:
    cfg = SampleConfig(height=SIDE, width=SIDE, zoom=ZOOM, seed=SEED)
    samples = [draw_sample(index, cfg=cfg) for index in range(SHOTS)]
    assert [sample.image_id for sample in samples] == [1, 2, 3, 4]
    ids = [annotation["id"] for sample in samples for annotation in sample.annotations]
    assert len(ids) == len(set(ids)) > 10


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    cfg = SampleConfig(scenes=10, height=64, width=64, zoom=ZOOM, seed=SEED, shard_size=7)
    for workers in (1, 3):
        write_sample(cfg, tmp_path / str(workers), workers=workers)
    for name in ("sa_000000.tar", "sa_000001.tar"):
        alone, together = (tmp_path / workers / name for workers in ("1", "3"))
        assert alone.read_bytes() == together.read_bytes()
    with tarfile.open(tmp_path / "3" / "sa_000000.tar") as tar:
        stored = tar.extractfile("sa_6.jpg")
        assert stored is not None
        seen = np.asarray(Image.open(io.BytesIO(stored.read())), np.int16)
    drawn = close_up(SEED, 5, height=64, width=64, zoom=ZOOM).image
    assert np.abs(seen - drawn).mean() < 8


def test_a_photo_of_each_scene_is_that_of_the_whole_collection(tmp_path: Path) -> None:
    every = SampleConfig(scenes=9, height=64, width=64, zoom=ZOOM, seed=SEED)
    few = SampleConfig(scenes=3, height=64, width=64, zoom=ZOOM, seed=SEED, per_scene=1)
    members: dict[str, dict[str, bytes]] = {}
    for name, cfg in {"every": every, "few": few}.items():
        write_sample(cfg, tmp_path / name)
        with tarfile.open(tmp_path / name / "sa_000000.tar") as tar:
            files = {m.name: tar.extractfile(m) for m in tar}
            members[name] = {key: file.read() for key, file in files.items() if file}
    assert members["few"].items() <= members["every"].items()
    assert sorted(members["few"])[::2] == ["sa_1.jpg", "sa_5.jpg", "sa_9.jpg"]
    assert read_groups(tmp_path / "every") == {
        f"sa_{k + 1}": f"seed {SEED} scene {k // SHOTS}" for k in range(9)
    }
    assert len(set(read_groups(tmp_path / "few").values())) == 3


def test_groups_are_written_beside_shards_from_before_there_were_any(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--scenes", "5", "--size", "64", "--zoom", "2"]
    run([*arguments, "--workers", "0"])
    before = (tmp_path / "groups.tsv").read_bytes()
    (tmp_path / "groups.tsv").unlink()
    assert "5 photos of 2 scenes are there already" in run(arguments)
    assert (tmp_path / "groups.tsv").read_bytes() == before
    # Four a scene is what --zoom 2 leaves room for: nothing else than what is there.
    assert "are there already" in run([*arguments, "--per-scene", "4"])
    with pytest.raises(UserError, match="made with another per_scene"):
        run([*arguments, "--per-scene", "1"])
    with pytest.raises(UserError, match=r"--per-scene 5 must be from 1 to 4 with --zoom 2"):
        run([*arguments, "--per-scene", "5"])
