"""`evaluate task=fairness` and `task=probe` as people start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.cli import main
from sam_train.eval.evaluate import evaluate
from sam_train.eval.frame.result import TaskResult

NANO = Path(__file__).resolve().parents[2] / "sam_train/assets/nano.safetensors"


@pytest.fixture(scope="module")
def shards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("shards")
    tiny.pack(folder / "sa_000000.tar", tiny.good(4))
    return folder


@pytest.fixture(scope="module")
def names(shards: Path) -> list[str]:
    """Of the photos, without ending."""
    import tarfile  # noqa: PLC0415

    with tarfile.open(shards / "sa_000000.tar") as tar:
        return sorted(name.removesuffix(".jpg") for name in tar.getnames() if name.endswith("jpg"))


def shared(shards: Path, run_dir: Path) -> list[str]:
    return [
        f"ckpt={NANO}",
        f"eval.datasets=scenes=shards:{shards}",
        "trainer.accelerator=cpu",
        f"run_dir={run_dir}",
    ]


def test_a_group_of_everybody_is_the_points_task(
    shards: Path, names: list[str], tmp_path: Path
) -> None:
    """And its two parts, weighted by their masks, are the whole."""
    table = tmp_path / "groups.csv"
    lines = [f"{name},{k},all,{'even' if k == 0 else 'odd'}" for name in names for k in (0, 1)]
    table.write_text("\n".join(["image,mask,whole,part", *lines]))
    points, fairness = evaluate(
        [
            *shared(shards, tmp_path),
            "task=[points,fairness]",
            f"fairness.groups={table}",
            "points.first=[random]",
            "points.clicks=[1,3]",
            "points.noc=[]",
            "points.film_rows=0",
        ]
    )
    found = fairness.figures
    for n in (1, 3):
        assert found[f"whole/all/miou_{n}"] == pytest.approx(points.figures[f"miou_{n}_random"])
        parts = [found[f"part/{part}/miou_{n}"] or 0.0 for part in ("even", "odd")]
        assert sum(parts) / 2 == pytest.approx(found[f"whole/all/miou_{n}"])
    assert fairness.rows[0].values["masks"] == 8
    assert (tmp_path / "fairness/groups.png").is_file()
    assert TaskResult.read(tmp_path / "fairness") == fairness


def test_a_table_about_other_photos(
    shards: Path, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "groups.csv"
    words = ["evaluate", "task=fairness", *shared(shards, tmp_path), f"fairness.groups={table}"]
    table.write_text("image,age\nelsewhere.jpg,old\n")
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert "names none of the 4 images" in error
    assert "'elsewhere.jpg'" in error
    table.write_text(f"image,mask,age\n{names[0]},0,old\n{names[0]},77,old\n{names[1]},99,old\n")
    with table.open("a") as file:
        file.write("elsewhere.jpg,,old\n")
    main(words)
    result = TaskResult.read(tmp_path / "fairness")
    assert result.rows[0].values["masks"] == 1
    assert result.skipped == {
        "mask: named in the CSV, not in the data": 1,
        "image: named in the CSV, not in the data": 1,
        "no mask that the CSV names": 1,
    }


def test_what_lies_next_to_what(shards: Path, names: list[str], tmp_path: Path) -> None:
    table = tmp_path / "kinds.csv"
    table.write_text("image,mask,kind\n" + "".join(f"{n},{k},{k}\n" for n in names for k in (0, 1)))
    words = [*shared(shards, tmp_path), f"probe.groups={table}", "probe.queries=3"]
    (result,) = evaluate(["task=probe", *words])
    assert result.rows[0].values["masks"] == 8
    assert (result.figures["similarity_nearest"] or 0) > (result.figures["similarity_any"] or 0)
    assert result.figures["kind/chance"] == pytest.approx(0.5)
    with np.load(tmp_path / "probe/embeddings.npz") as saved:
        assert saved["vectors"].shape == (8, 128)
        assert saved["masks"].tolist() == ["mask 0", "mask 1"] * 4
    with Image.open(tmp_path / result.pictures[0].path) as image:
        assert image.height > 3 * 132
