"""`python -m sam_train evaluate` as people start it, on the model that ships with the project."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sam_train.cli import main
from sam_train.eval.evaluate import evaluate
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.validate import validate
from sam_train.export.run import export

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "sam_train/assets/nano.safetensors"


@pytest.fixture(scope="module")
def shards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("shards")
    tiny.pack(folder / "sa_000000.tar", tiny.good(4))
    return folder


def points(shards: Path, run_dir: Path, *more: str, ckpt: Path = NANO) -> list[str]:
    return [
        "task=points",
        f"ckpt={ckpt}",
        f"eval.datasets=scenes=shards:{shards}",
        "points.clicks=[1,2,3]",
        "points.noc_clicks=4",
        "points.film_rows=1",
        "trainer.accelerator=cpu",
        f"run_dir={run_dir}",
        *more,
    ]


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskResult]:
    """A run by one process, and its result."""
    run_dir = tmp_path_factory.mktemp("alone")
    (result,) = evaluate(points(shards, run_dir))
    return run_dir, result


def test_points_are_what_validate_measures(
    alone: tuple[Path, TaskResult], shards: Path, tmp_path: Path
) -> None:
    result = alone[1]
    scores = validate(
        [
            f"ckpt={NANO}",
            f"data.val={shards}",
            "data.workers=0",
            "callbacks.validation.clicks=[1,2,3]",
            "trainer.accelerator=cpu",
            f"run_dir={tmp_path}",
        ]
    )
    assert result.figures["miou_1"] == pytest.approx(scores.miou[1], abs=2e-6)
    assert result.figures["miou_3"] == pytest.approx(scores.miou[3], abs=2e-6)
    assert result.figures["oracle"] == pytest.approx(scores.oracle, abs=2e-6)
    assert result.rows[0].values["masks"] == scores.masks == 8
    assert result.figures["miou_1_random"] != result.figures["miou_1"]


def test_the_files_of_a_run(alone: tuple[Path, TaskResult]) -> None:
    run_dir, result = alone
    assert TaskResult.read(run_dir / "points") == result
    assert (run_dir / "points/table.csv").read_text().startswith("name,source,images,masks,1 click")
    assert {picture.kind for picture in result.pictures} == {"plot", "bars", "film", "worst"}
    for picture in result.pictures:
        with Image.open(run_dir / picture.path) as image:
            assert min(image.size) > 100
    said = (run_dir / "log.txt").read_text()
    assert "SAM ViT-H, 23 data sets (paper §7.1)" in said


def test_two_processes_share_the_photos(
    alone: tuple[Path, TaskResult], shards: Path, tmp_path: Path
) -> None:
    command = [forked.python(), "-m", "sam_train", "evaluate", *points(shards, tmp_path)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        process.communicate(timeout=300)
        assert process.returncode == 0
    records = sorted((tmp_path / "points/records").rglob("*.jsonl"))
    assert [path.name for path in records] == ["part_0_of_2.jsonl", "part_1_of_2.jsonl"]
    assert [len(path.read_text().splitlines()) for path in records] == [2, 2]
    result = TaskResult.read(tmp_path / "points")
    assert result.figures == pytest.approx(alone[1].figures, abs=1e-5)


@pytest.mark.parametrize(
    ("format", "name"), [("segment_anything", "sam.pth"), ("huggingface", "hf")]
)
def test_other_formats_of_the_same_weights(
    alone: tuple[Path, TaskResult], shards: Path, tmp_path: Path, format: str, name: str
) -> None:
    """They even go on with the same records: what counts is the weights, not their file."""
    export([f"ckpt={NANO}", f"format={format}", f"out={tmp_path / name}", f"run_dir={tmp_path}"])
    (result,) = evaluate(points(shards, alone[0], ckpt=tmp_path / name))
    assert result.fingerprint == alone[1].fingerprint
    assert result.figures == alone[1].figures
    assert result.checkpoint == str(tmp_path / name)


def test_labels_that_were_mended_are_measured_again(tmp_path: Path) -> None:
    """The same command again: films and the probe's picture play masks that are no longer there."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for k in range(2):
        photo = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / f"set/images/{k}.png")
        labels = np.zeros((40, 56), dtype=np.uint8)
        labels[4:20, 4:30], labels[22:38, 20:50] = 1, 2
        Image.fromarray(labels).save(tmp_path / f"set/masks/{k}.png")
    both = f"eval.datasets=masks:{tmp_path / 'set'}"
    words = points(tmp_path, tmp_path / "run", both, "task=[points,probe]", "points.noc=[]")
    first = evaluate(words)
    assert [result.rows[0].values["masks"] for result in first] == [4, 4]
    for k in range(2):
        labels[labels == 1] = 0
        Image.fromarray(labels).save(tmp_path / f"set/masks/{k}.png")
    again, fresh = (evaluate([*words, f"run_dir={tmp_path / name}"]) for name in ("run", "new"))
    assert [result.rows[0].values["masks"] for result in again] == [2, 2]
    assert [result.figures for result in again] == [result.figures for result in fresh]


def test_edges_by_a_model_and_of_its_maps_alone(tmp_path: Path) -> None:
    for name in ("photos", "truth"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for k in range(2):
        photo = rng.integers(0, 60, (40, 56, 3), dtype=np.uint8)
        photo[10:30, 12 + k : 40] += 150
        Image.fromarray(photo).save(tmp_path / f"photos/{k}.jpg")
        boundary = np.zeros((40, 56), dtype=np.uint8)
        boundary[10, 12:40] = boundary[30, 12:40] = boundary[10:30, 12] = boundary[10:30, 40] = 1
        people = np.empty((1, 1), dtype=object)
        people[0, 0] = {"Segmentation": np.cumsum(boundary, 1), "Boundaries": boundary}
        savemat(tmp_path / f"truth/{k}.mat", {"groundTruth": people})
    common = ["task=edges", f"edges.ground_truth={tmp_path / 'truth'}", "edges.thresholds=9"]
    common += ["trainer.accelerator=cpu", f"run_dir={tmp_path / 'run'}"]
    (made,) = evaluate(
        [*common, f"ckpt={NANO}", f"edges.images={tmp_path / 'photos'}", "edges.points_per_side=4"]
    )
    assert made.figures["ods"] > 0
    maps = tmp_path / "run/edges/maps"
    assert Image.open(maps / "1.png").size == (56, 40)
    (read,) = evaluate([*common, f"edges.maps={maps}"])
    assert read.figures == made.figures
    assert json.loads((tmp_path / "run/edges.json").read_text())["ods"] == made.figures["ods"]
    assert (tmp_path / "run/edges.png").is_file()


def test_all_takes_what_has_its_settings(
    alone: tuple[Path, TaskResult], shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate([*points(shards, alone[0])[1:], "task=all"])
    assert results[0].figures == alone[1].figures
    assert "edges is left out: edges.ground_truth is not set" in (alone[0] / "log.txt").read_text()


def test_a_task_that_cannot_be_measured_leaves_the_others_and_the_page(
    alone: tuple[Path, TaskResult],
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neighbours are of other photos: one photo is too few for the probe."""
    words = points(shards, tmp_path, "task=[probe,points]", "eval.images=1")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *words])
    assert ended.value.code == 2
    why = "all masks are of one photo, and neighbours are of others"
    error = capsys.readouterr().err
    assert error == f"error: 1 of 2 tasks could not be measured (probe: {why})\n"
    tree = json.loads((tmp_path / "report.json").read_text())
    assert (list(tree["tasks"]), tree["left_out"]) == (["points"], {"probe": why})
    assert f"was not measured: {why}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "task is not set: task=points|edges"),
        (["task=pionts"], "task=pionts is unknown"),
        (["task=points"], "eval.datasets is not set"),
        (["task=points", "eval.datasets=coco:/absent"], "no checkpoint is named"),
        (
            ["task=points", "eval.datasets=coco:/absent", f"ckpt={NANO}"],
            "coco: /absent does not exist",
        ),
        (["task=[points,edges]", "eval.datasets=coco:/absent"], "edges.ground_truth is not set"),
        (["task=points", "eval.datasets=coco:/x", "eval.masks=0"], "eval.masks=0"),
        (["task=edges", "edges.ground_truth=/absent", "edges.maps=/absent"], "is not a folder"),
        (["task=all"], "task=all has nothing to do (points: eval.datasets is not set"),
    ],
)
def test_what_must_be_mended_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments, f"run_dir={tmp_path}", "trainer.accelerator=cpu"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
