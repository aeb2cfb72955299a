"""The notebook of fine-tuning runs from its first cell to its last, and shows what it stores."""

from __future__ import annotations

import base64
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import forked
import nbformat
import pytest
import run_notebook
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "finetune.ipynb"
LARGEST = 300_000
"""Bytes of the stored file."""
PARAMETERS = """
PHOTOS = 8
FORMAT = "huggingface"  # ONNX takes longer than everything else; test_onnx_pair.py has it
SETTINGS = [
    "eval.keep=masks:runs/finetune_example/cells",  # fewer than the scenes that ship
    "trainer.devices=1",
    "trainer.max_steps=2",
    "trainer.threads=1",
    "data.batch_size=2",
    "data.masks_per_image=2",
    "data.val_masks_per_image=2",
    "prompts.curriculum=[]",
    "prompts.points=1",
    "prompts.mask_only=0",
    "callbacks.validation.every=2",
    "callbacks.validation.film_rows=0",
]
"""
SAID = (
    "photos to train on and",
    "chosen, each to be overruled by a setting of the same name:",
    "the same by hand:",
    "held-out photos: mIoU over",
    "before, 128 px",
    "after, 128 px",
    "model.safetensors",
    "sam.pth",
    "huggingface",
    "read back by transformers",
)
"""Texts that people are shown; the small run of the test shows them as well."""


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(PAGE, as_version=4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run of small settings in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    words = [str(ROOT / "tests" / "run_notebook.py"), str(PAGE), "ran.ipynb", PARAMETERS]
    done = subprocess.run(
        [forked.python(), *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in folder.iterdir()) == ["ran.ipynb", "runs"]
    return nbformat.read(folder / "ran.ipynb", as_version=4)


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(book: Any) -> str:
    return "".join(
        output.text for cell in code(book) for output in cell.outputs if "text" in output
    )


def pictures(book: Any) -> list[Image.Image]:
    shown = [output.data for cell in code(book) for output in cell.outputs if "data" in output]
    files = [base64.b64decode(data["image/jpeg"]) for data in shown if "image/jpeg" in data]
    return [Image.open(io.BytesIO(file)) for file in files]


def test_the_stored_outputs_are_those_of_these_cells(stored: Any, ran: Any) -> None:
    nbformat.validate(stored)
    again = "run tests/run_notebook.py to store the outputs again"
    for old, new in zip(code(stored), code(ran), strict=True):
        assert run_notebook.kinds(old) == run_notebook.kinds(new), f"{old.source[:60]}: {again}"
    for text in SAID:
        assert text in printed(ran)
        assert text in printed(stored), again
    sizes = [[picture.width for picture in pictures(book)] for book in (stored, ran)]
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == 5
    assert "annotate/annotate.decoder.onnx" in printed(stored), again
    assert PAGE.stat().st_size < LARGEST


def test_the_stored_run_shows_a_gain(stored: Any) -> None:
    """A reader who sees none would think that the notebook is broken."""
    scores = {
        name: float(click)
        for name, click in re.findall(r"^(before|after) +one click (\S+)", printed(stored), re.M)
    }
    assert scores["after"] > scores["before"] + 0.1


def test_nothing_of_one_machine_is_stored(stored: Any) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)\b", PAGE.read_text())
    assert all(cell.execution_count == k for k, cell in enumerate(code(stored), 1))


def test_its_links_lead_somewhere(stored: Any) -> None:
    text = "".join(cell.source for cell in stored.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert len(links) >= 4
    for link in links:
        assert (PAGE.parent / link).is_file(), link


def test_a_cell_that_fails_is_an_error() -> None:
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("A = 1", metadata={"tags": [run_notebook.PARAMETERS]}),
            nbformat.v4.new_code_cell("print(A)\nA + 1"),
            nbformat.v4.new_code_cell("assert A == 1"),
        ]
    )
    run_notebook.run(book)
    assert [run_notebook.kinds(cell) for cell in book.cells] == [[], ["stdout", "text"], []]
    assert book.cells[1].outputs[1].data["text/plain"] == "2"
    with pytest.raises(AssertionError):
        run_notebook.run(book, parameters="A = 2")
