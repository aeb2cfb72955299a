"""A stranger adds a thing from one file, and it works: the examples of docs/extending.md, run.

Every example is written to a file of its own, named by SAM_TRAIN_PLUGINS, and asked for on the
command line of a new process, as a stranger would. Nothing else is touched.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.train.report.metrics_file import read_columns

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
FENCE = re.compile(r'^```python\n(""".*?"""\n# (\w+)\.py\n.*?)^```', re.MULTILINE | re.DOTALL)
EXAMPLES = {name: code for code, name in FENCE.findall(PAGE.read_text())}
DOTS = ((12, 14, 8), (40, 30, 11))
"""x, y and radius of the masks of every photo, in pixels."""
TINY = [
    "model=vit_t",
    "model.image_size=64",
    "data.workers=0",
    "data.batch_size=2",
    "data.masks_per_image=2",
    "prompts.points=2",
    "prompts.mask_only=0",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.log_every=1",
    "callbacks.validation.images=2",
    "callbacks.validation.film_rows=1",
    "callbacks.validation.clicks=[1]",
]
"""Two steps of three rounds."""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Start a module of the project with one example of the page as its plug-in."""

    def start(example: str, module: str, *words: object) -> str:
        plugin = tmp_path / "elsewhere" / f"{example}.py"
        plugin.parent.mkdir(exist_ok=True)
        plugin.write_text(EXAMPLES[example])
        done = subprocess.run(
            [forked.python(), "-m", module, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "SAM_TRAIN_PLUGINS": str(plugin), "PYTHONPATH": str(ROOT)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return start


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the stranger's own format: photos, and circles in a text file beside each."""
    folder = tmp_path_factory.mktemp("dots")
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text("".join(f"{x} {y} {r}\n" for x, y, r in DOTS))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, dots: Path) -> Path:
    """The same photos and masks in SA-1B's format, written with tarfile and pycocotools."""
    folder = tmp_path_factory.mktemp("shards")
    annotations = []
    for k, each in enumerate(DOTS):
        rle = coco_mask.encode(np.asfortranarray(dot(*each), dtype=np.uint8))
        counts = rle["counts"].decode()
        annotations.append({"id": k, "segmentation": {"size": [48, 64], "counts": counts}})
    text = json.dumps({"annotations": annotations}).encode()
    with tarfile.open(folder / "sa_000000.tar", "w") as tar:
        for k in range(4):
            jpeg = io.BytesIO()
            Image.open(dots / f"{k}.png").save(jpeg, "JPEG")
            for name, data in ((f"sa_{k}.jpg", jpeg.getvalue()), (f"sa_{k}.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def dot(x: int, y: int, radius: int) -> np.ndarray[Any, Any]:
    """Draw a circle, pixel by pixel."""
    return np.array(
        [[(c - x) ** 2 + (r - y) ** 2 <= radius**2 for c in range(64)] for r in range(48)]
    )


def test_every_row_is_on_the_page() -> None:
    assert set(EXAMPLES) == {"dots", "patches", "middle", "area", "two_rounds", "cover"}
    for code in EXAMPLES.values():
        assert len(code.splitlines()) < 70


@pytest.mark.slow
def test_a_format_is_trained_on_evaluated_and_converted(
    run: Run, dots: Path, tmp_path: Path
) -> None:
    run("dots", "sam_train", "fit", *TINY, f"data.train=dots:{dots}", f"data.val=dots:{dots}",
        "run_dir=run")  # fmt: skip
    assert all(np.isfinite(read_columns(tmp_path / "run" / "metrics.csv")["loss"][1:]))

    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    run("dots", "sam_train", "evaluate", "task=points", f"ckpt={ckpt}", "trainer.accelerator=cpu",
        f"eval.datasets=[dots:{dots}]", "points.clicks=[1]", "points.noc_clicks=1",
        "points.film_rows=0", "run_dir=measured")  # fmt: skip
    records = tmp_path / "measured" / "points"
    assert json.loads((records / "result.json").read_text())["skipped"] == {}

    run("dots", "data_tools.convert", "dots", "--images", dots, "--out", "converted",
        "--workers", "0")  # fmt: skip
    with tarfile.open(next((tmp_path / "converted").glob("*.tar"))) as tar:
        names = [name for name in tar.getnames() if name.endswith(".json")]
        assert len(names) == 4
        file = tar.extractfile(names[0])
        assert file is not None
        annotations = json.load(file)["annotations"]
    decoded = [coco_mask.decode(each["segmentation"]).astype(bool) for each in annotations]
    assert all(np.array_equal(a, dot(*b)) for a, b in zip(decoded, DOTS, strict=True))


@pytest.mark.slow
def test_an_encoder(run: Run, shards: Path, tmp_path: Path) -> None:
    columns = fit_columns(run, "patches", shards, tmp_path, "model.name=patches")
    assert all(np.isfinite(columns["loss"][1:]))
    # The checkpoint names its encoder, and another verb builds it again.
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    run("patches", "sam_train", "validate", f"ckpt={ckpt}", f"data.val={shards}", "data.workers=0",
        "trainer.accelerator=cpu", "run_dir=again")  # fmt: skip


@pytest.mark.slow
def test_a_first_prompt(run: Run, shards: Path, tmp_path: Path) -> None:
    plain = ["prompts.box_probability=0"]
    middle = fit_columns(run, "middle", shards, tmp_path, *plain, "prompts.first=[middle]")
    point = fit_columns(run, "middle", shards, tmp_path / "point", *plain)
    # The same weights and masks; only the first click is elsewhere.
    assert middle["loss_r00"][1] != point["loss_r00"][1]


@pytest.mark.slow
def test_a_term_of_the_loss_has_its_columns(run: Run, shards: Path, tmp_path: Path) -> None:
    columns = fit_columns(run, "area", shards, tmp_path, "loss.terms=[{name: area, weight: 2}]")
    shown = [columns[f"loss_area_r{r:02d}"][1:] for r in range(3)]
    assert all(0 <= value <= 1 for of_round in shown for value in of_round)


@pytest.mark.slow
def test_an_objective(run: Run, shards: Path, tmp_path: Path) -> None:
    columns = fit_columns(run, "two_rounds", shards, tmp_path, "trainer.objective=two_rounds")
    assert {name for name in columns if re.fullmatch(r"loss_r\d+", name)} == {
        "loss_r00",
        "loss_r01",
    }


@pytest.mark.slow
def test_a_task_of_evaluate(run: Run, shards: Path, tmp_path: Path) -> None:
    run("cover", "sam_train", "evaluate", "task=cover", f"eval.datasets=[shards:{shards}]",
        "run_dir=measured")  # fmt: skip
    result = json.loads((tmp_path / "measured" / "cover" / "result.json").read_text())
    assert result["figures"]["covered"] == pytest.approx(
        np.any([dot(*each) for each in DOTS], axis=0).mean()
    )
    report = json.loads((tmp_path / "measured" / "report.json").read_text())
    assert [line["figure"] for line in report["headlines"]] == ["covered"]


def fit_columns(
    run: Run, example: str, shards: Path, folder: Path, *words: str
) -> dict[str, list[float]]:
    """Train two steps and read the columns of metrics.csv."""
    run_dir = folder / "run"
    run(example, "sam_train", "fit", *TINY, f"data.train={shards}", f"data.val={shards}", *words,
        f"run_dir={run_dir}")  # fmt: skip
    return read_columns(run_dir / "metrics.csv")
