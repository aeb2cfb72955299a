import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sam_train.errors import UserError
from sam_train.eval.edges import EdgeResult, EdgesConfig, evaluate_edges, run
from sam_train.eval.edges.plot import draw_precision_recall

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
    return EdgesConfig(
        maps=str(maps), ground_truth=str(truth), thresholds=9, max_distance=0.05, workers=2
    )


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


def test_files_of_a_run(folders: EdgesConfig, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = run(folders, tmp_path / "run", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    text = (tmp_path / "run" / "edges.json").read_text()
    assert json.loads(text)["ods"] == result.figures.ods.f
    assert json.loads(text)["images"] == 3
    assert EdgeResult.from_json(text).to_json() == text
    assert "SAM ViT-H   0.768   0.786   0.794   0.928" in (tmp_path / "run/edges.txt").read_text()
    with Image.open(tmp_path / "run" / "edges.png") as plot:
        assert min(plot.size) > 500
    official = np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry_thr.txt")
    assert np.allclose(official[:, 1], result.figures.curve.recall, atol=1e-5)
    assert np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry_img.txt").shape == (3, 5)
    assert np.loadtxt(tmp_path / "run" / "edges" / "eval_bdry.txt").shape == (8,)


def test_finished_images_are_not_counted_again(
    folders: EdgesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The third map is unreadable: the run breaks off, the first two images stay.
    third = Path(folders.maps) / "2.png"
    whole = third.read_bytes()
    third.write_bytes(whole[:40])
    folders.workers = 1
    with pytest.raises(UserError, match=r"2\.png"):
        run(folders, tmp_path / "run")
    counts = tmp_path / "run" / "edges" / "counts"
    assert sorted(path.name for path in counts.iterdir()) == ["0.json", "1.json"]
    third.write_bytes(whole)

    counted: list[str] = []
    from sam_train.eval.edges import run as module  # noqa: PLC0415

    real = module.__globals__["count_image"]

    def spy(pair, **settings):  # type: ignore[no-untyped-def]
        counted.append(pair.name)
        return real(pair, **settings)

    monkeypatch.setitem(module.__globals__, "count_image", spy)
    resumed = run(folders, tmp_path / "run")
    assert counted == ["2"]
    assert resumed.to_json() == run(folders, tmp_path / "fresh").to_json()

    # Other inputs, other settings and damaged counts are no reason to believe old counts.
    counted.clear()
    Image.fromarray(drawing(9) * np.uint8(200)).save(third)
    (counts / "0.json").write_text("{")
    run(folders, tmp_path / "run")
    assert sorted(counted) == ["0", "2"]
    counted.clear()
    folders.max_distance = 0.1
    run(folders, tmp_path / "run")
    assert sorted(counted) == ["0", "1", "2"]


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
    [("thresholds", 0), ("workers", 0), ("max_distance", 0.0), ("max_distance", 4.3), ("maps", "")],
)
def test_settings_are_checked(
    folders: EdgesConfig, tmp_path: Path, option: str, value: float | str
) -> None:
    setattr(folders, option, value)
    with pytest.raises(UserError, match=rf"edges\.{option}"):
        run(folders, tmp_path)


def test_several_curves_in_one_plot(folders: EdgesConfig, tmp_path: Path) -> None:
    result = evaluate_edges(Path(folders.maps), Path(folders.ground_truth), thresholds=9)
    draw_precision_recall({"one": result, "two": result}, tmp_path / "both.png", title="both")
    with Image.open(tmp_path / "both.png") as plot:
        assert len(np.unique(np.asarray(plot.convert("RGB")).reshape(-1, 3), axis=0)) > 50
