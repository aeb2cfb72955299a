"""The page of all results: complete, of itself, and of one checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from sam_train.eval.frame.report import write_report
from sam_train.eval.frame.result import Picture, Row, TaskResult


def result(
    task: str, *, checkpoint: str = "a.ckpt", value: float = 0.5, **more: object
) -> TaskResult:
    fields: dict[str, object] = {
        "title": f"Title of {task}",
        "figures": {"ods": value},
        "columns": ["ODS", "AP"],
        "rows": [
            Row(name="mine <b>", values={"ODS": value, "AP": None}),
            Row(name="SAM ViT-H", values={"ODS": 0.768}, source="paper §7.3"),
        ],
        "checkpoint": checkpoint,
        "weights": f"digest of {checkpoint}",
    }
    return TaskResult(task=task, **(fields | more))  # type: ignore[arg-type]


def test_everything_is_on_the_page_and_nothing_is_fetched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    for name, pixels in (("small.png", noise[:8, :8]), ("film.png", noise)):
        Image.fromarray(pixels).save(tmp_path / name)
    pictures = [
        Picture(path="small.png", title="a plot"),
        Picture(path="film.png", title="a film", kind="film"),
    ]
    found = result("edges", pictures=pictures, notes=["a note & more"], skipped={"too odd": 3})
    page = write_report([found], tmp_path, left_out={"points": "eval.datasets is not set"})
    text = page.read_text()
    for part in ("a.ckpt", "mine &lt;b&gt;", "0.500", "0.768", "a note &amp; more", "too odd"):
        assert part in text
    assert "<b>points</b> was not measured: eval.datasets is not set" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert [s.split(";")[0] for s in sources if not s.startswith("#")] == [
        "data:image/png",
        "data:image/webp",  # noise of 1 MB as PNG
    ]
    assert len(text) < 1_000_000
    tree = json.loads((tmp_path / "report.json").read_text())
    assert tree["headlines"][0] == {
        "task": "edges",
        "title": "Title of edges",
        "figure": "ODS",
        "measured": 0.5,
        "published": 0.768,
        "source": "SAM ViT-H, paper §7.3",
    }
    assert tree["tasks"]["edges"]["rows"][0]["name"] == "mine <b>"


def test_earlier_results_of_the_same_checkpoint_stay_on_the_page(tmp_path: Path) -> None:
    result("instances", value=0.25).write(tmp_path / "instances")
    result("proposals", checkpoint="b.ckpt").write(tmp_path / "proposals")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "result.json").write_text("{half")
    page = write_report([result("edges")], tmp_path, left_out={"instances": "no boxes"})
    tree = json.loads((tmp_path / "report.json").read_text())
    assert list(tree["tasks"]) == ["edges", "instances"]
    assert tree["left_out"] == {}
    assert "Title of proposals" not in page.read_text()


def test_a_task_that_failed_says_why_in_place_of_earlier_figures(tmp_path: Path) -> None:
    result("probe").write(tmp_path / "probe")
    why = {"probe": "all masks are of one photo"}
    page = write_report([result("edges")], tmp_path, left_out={}, failed=why)
    tree = json.loads((tmp_path / "report.json").read_text())
    assert (list(tree["tasks"]), tree["left_out"]) == (["edges"], why)
    assert "<b>probe</b> was not measured: all masks are of one photo" in page.read_text()


def test_a_checkpoint_that_training_overwrote_is_another_one(tmp_path: Path) -> None:
    """And the same weights under another name are the same."""
    result("instances", checkpoint="last.ckpt", weights="old").write(tmp_path / "instances")
    result("proposals", checkpoint="step_9.ckpt", weights="new").write(tmp_path / "proposals")
    found = result("edges", checkpoint="last.ckpt", weights="new")
    write_report([found], tmp_path, left_out={})
    tree = json.loads((tmp_path / "report.json").read_text())
    assert list(tree["tasks"]) == ["edges", "proposals"]


def test_another_programs_figures_are_not_the_models(tmp_path: Path) -> None:
    maps = result("edges", checkpoint="some/maps", weights="")
    page = write_report([maps, result("points", columns=["1 click"])], tmp_path, left_out={})
    tree = json.loads((tmp_path / "report.json").read_text())
    assert tree["checkpoint"] == "a.ckpt"
    assert tree["headlines"][0]["title"] == "Title of edges (of maps)"
    assert page.read_text().count("<p>Of some/maps, which another program made.</p>") == 1
    assert "<p>Of a.ckpt" not in page.read_text()


def test_the_headline_of_points_is_their_average(tmp_path: Path) -> None:
    """Under whatever name: only random first clicks have no plain one."""
    for names, expected in (
        (["coco", "average", "coco, random first", "average, random first"], 1.0),
        (["coco, random first", "average, random first"], 1.0),
        (["coco"], 0.0),
    ):
        rows = [Row(name=name, values={"1 click": float(k)}) for k, name in enumerate(names)]
        found = result("points", columns=["1 click"], rows=rows)
        write_report([found], tmp_path, left_out={})
        tree = json.loads((tmp_path / "report.json").read_text())
        assert tree["headlines"][0]["measured"] == expected
