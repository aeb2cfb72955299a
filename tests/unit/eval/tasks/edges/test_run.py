import json
from pathlib import Path

import numpy as np
import pytest
from edges_benchmark import evaluate_edges
from PIL import Image
from scipy.io import savemat

from sam_train.errors import UserError
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.frame.tasks import Run
from sam_train.eval.frame.work import run_task
from sam_train.eval.tasks.edges.config import EdgesConfig, check
from sam_train.eval.tasks.edges.counts import ImageCounts, count_image
from sam_train.eval.tasks.edges.plot import draw_precision_recall
from sam_train.eval.tasks.edges.readers import Pair
from sam_train.eval.tasks.edges.result import EdgeResult
from sam_train.eval.tasks.edges.task import Edges
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig

SIZE = (24, 30)


def drawing(column: int) -> np.ndarray:
    boundary = np.zeros(SIZE, dtype=np.uint8)
    boundary[:, column] = 1
    return boundary


def write_truth(path: Path, drawings: list[np.ndarray]) -> None:
    people = np.empty((1, len(drawings)), dtype=object)
    for k, boundaries in enumerate(drawings):
        people[0, k] = {"Segmentation": np.cumsum(boundaries, 1), "Boundaries": boundaries}
    savemat(path, {"groundTruth": people})


@pytest.fixture
def folders(tmp_path: Path) -> EdgesConfig:
    maps, truth = tmp_path / "maps", tmp_path / "truth"
    maps.mkdir()
    truth.mkdir()
    for k in range(3):
        write_truth(truth / f"{k}.mat", [drawing(8), drawing(9 + k)])
        strength = drawing(8) * 200 + drawing(22) * 60
        Image.fromarray(strength.astype(np.uint8)).save(maps / f"{k}.png")
    return EdgesConfig(maps=str(maps), ground_truth=str(truth), thresholds=9, max_distance=0.05)


def test_counts_by_hand(folders: EdgesConfig) -> None:
    # Reach: 0.05 * hypot(24, 30) = 1.92 px. The line in column 8 finds the first person's line and
    # that of the second one in column 9 (image 0), not those in 10 and 11; column 22 finds nobody.
    figures = evaluate_edges(
        Path(folders.maps), Path(folders.ground_truth), thresholds=9, max_distance=0.05
    ).figures
    assert figures.curve.threshold.tolist() == pytest.approx(np.arange(1, 10) / 10)
    recall = (2 + 1 + 1) / 6
    assert figures.curve.recall.tolist() == pytest.approx([recall] * 7 + [0] * 2)
    assert figures.curve.precision.tolist() == pytest.approx([0.5] * 2 + [1.0] * 5 + [0] * 2)
    assert figures.ods.f == figures.ois.f == pytest.approx(2 * recall / (1 + recall))
    assert figures.r50 == pytest.approx(recall)


def run(edges: EdgesConfig, run_dir: Path) -> TaskResult:
    """The task, as `evaluate task=edges` runs it."""
    result = run_task(Edges(), Run(cfg=RunConfig(edges=edges), run_dir=run_dir, part=Share()))
    assert result is not None
    return result


def test_files_of_a_run(folders: EdgesConfig, tmp_path: Path) -> None:
    found = evaluate_edges(
        Path(folders.maps), Path(folders.ground_truth), thresholds=9, max_distance=0.05
    )
    result = run(folders, tmp_path / "run")
    assert result.figures == found.summary()
    assert (result.checkpoint, result.weights) == (folders.maps, "")
    text = (tmp_path / "run" / "edges.json").read_text()
    assert text == found.to_json()
    assert json.loads(text)["images"] == 3
    assert EdgeResult.from_json(text).to_json() == text
    published = [row for row in result.rows if row.source != "measured"]
    assert (published[1].name, list(published[1].values.values())) == (
        "SAM ViT-H",
        [0.768, 0.786, 0.794, 0.928],
    )
    with Image.open(tmp_path / "run" / "edges.png") as plot:
        assert min(plot.size) > 500
    official = np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry_thr.txt")
    assert np.allclose(official[:, 1], found.figures.curve.recall, atol=1e-5)
    assert np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry_img.txt").shape == (3, 5)
    assert np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry.txt").shape == (8,)


def test_finished_images_are_not_counted_again(
    folders: EdgesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The third map is unreadable: it is left out, and counted once it is mended.
    third = Path(folders.maps) / "2.png"
    whole = third.read_bytes()
    third.write_bytes(whole[:40])
    run(folders, tmp_path / "run")
    third.write_bytes(whole)
    counted: list[str] = []

    def spy(pair: Pair, *, thresholds: int, max_distance: float) -> ImageCounts:
        counted.append(pair.name)
        return count_image(pair, thresholds=thresholds, max_distance=max_distance)

    monkeypatch.setattr("sam_train.eval.tasks.edges.task.count_image", spy)
    resumed = run(folders, tmp_path / "run")
    assert counted == ["2"]
    counted.clear()
    assert run(folders, tmp_path / "run") == resumed
    assert not counted
    assert resumed == run(folders, tmp_path / "fresh")

    # Other inputs, other settings and damaged records are no reason to believe old counts.
    counted.clear()
    Image.fromarray(drawing(9) * np.uint8(200)).save(third)
    run(folders, tmp_path / "run")
    assert counted == ["2"]
    counted.clear()
    folders.max_distance = 0.1
    run(folders, tmp_path / "run")
    assert sorted(counted) == ["0", "1", "2"]


@pytest.mark.parametrize("what", ["map", "size", "truth", "unreadable"])
def test_an_image_that_does_not_fit_is_left_out_by_name(
    folders: EdgesConfig, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(folders.ground_truth if what == "truth" else folders.maps)
    path /= "1.mat" if what == "truth" else "1.png"
    if what == "size":
        Image.new("L", (24, 30)).save(path)
    elif what == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(path.read_bytes()[:40])
    result = run(folders, tmp_path / "run")
    assert result.skipped == {"file damaged, or of another size than its truth": 1}
    assert "2 images" in result.notes[0]
    assert str(path) in caplog.text


def test_sizes_must_agree(folders: EdgesConfig) -> None:
    Image.new("L", (24, 30)).save(Path(folders.maps) / "1.png")
    with pytest.raises(UserError, match=r"1\.png is 24x30, its ground truth 30x24"):
        evaluate_edges(Path(folders.maps), Path(folders.ground_truth), thresholds=3)


def test_segmentations_and_maps_do_not_mix(folders: EdgesConfig) -> None:
    segs = np.empty((1, 2), dtype=object)
    segs[0, 0] = segs[0, 1] = np.cumsum(drawing(8), 1)
    savemat(Path(folders.maps) / "1.mat", {"segs": segs})
    with pytest.raises(UserError, match="1 has 2 boundary maps, 0 has 3"):
        evaluate_edges(Path(folders.maps), Path(folders.ground_truth), thresholds=3)


def test_empty_maps_and_drawings(folders: EdgesConfig) -> None:
    for k in range(3):
        Image.new("L", SIZE[::-1]).save(Path(folders.maps) / f"{k}.png")
    write_truth(Path(folders.ground_truth) / "2.mat", [np.zeros(SIZE, dtype=np.uint8)])
    result = evaluate_edges(Path(folders.maps), Path(folders.ground_truth), thresholds=3)
    assert result.summary() == {"ods": 0.0, "ois": 0.0, "ap": 0.0, "r50": 0.0}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("thresholds", 0),
        ("max_distance", 0.0),
        ("max_distance", 4.3),
        ("maps", ""),
        ("images", "photos"),
        ("ground_truth", ""),
        ("points_per_side", 0),
        ("nms", 0.0),
    ],
)
def test_settings_are_checked(folders: EdgesConfig, option: str, value: float | str) -> None:
    setattr(folders, option, value)
    with pytest.raises(UserError, match=rf"edges\.{option}"):
        check(folders)


def test_several_curves_in_one_plot(folders: EdgesConfig, tmp_path: Path) -> None:
    result = evaluate_edges(Path(folders.maps), Path(folders.ground_truth), thresholds=9)
    draw_precision_recall({"one": result, "two": result}, tmp_path / "both.png", title="both")
    with Image.open(tmp_path / "both.png") as plot:
        assert len(np.unique(np.asarray(plot.convert("RGB")).reshape(-1, 3), axis=0)) > 50
