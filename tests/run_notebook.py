"""Notebooks without Jupyter: the cells run in order in one namespace, and outputs are kept.

    python tests/run_notebook.py docs/finetune.ipynb                  stores its outputs in it
    python tests/run_notebook.py docs/finetune.ipynb OUT PARAMETERS   with other values, in OUT

Run it from an empty folder, as the notebook writes below the one that it is run in. Jupyter does
the same, but stores every picture as PNG, too, which is ten times as large.
"""

from __future__ import annotations

import ast
import base64
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
from PIL import Image

Cell = Any
QUALITY = 65
PARAMETERS = "parameters"
"""Tag of the cell whose values a caller replaces."""


class Recorder(io.TextIOBase):
    """A standard output whose text goes to the cell that runs."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def write(self, text: str) -> int:
        """Keep a text."""
        self.text.append(text)
        return len(text)

    def taken(self) -> str:
        """Return the text since the last call."""
        text = "".join(self.text)
        self.text.clear()
        return text


def run(notebook: Any, *, parameters: str = "") -> None:
    """Run the code cells and replace their outputs.

    Args:
        notebook: as `nbformat.read` gives it.
        parameters: python to run after the cell of that tag.
    """
    # A kernel has a module of this name, too; what pickles or starts processes looks there.
    usual = sys.modules["__main__"], sys.stdout
    module = sys.modules["__main__"] = ModuleType("__main__")
    recorder = Recorder()
    sys.stdout = recorder  # type: ignore[assignment]
    try:
        number = 0
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            number += 1
            value = execute(cell.source, module.__dict__, name=f"<cell {number}>")
            if PARAMETERS in cell.metadata.get("tags", []):
                exec(parameters, module.__dict__)
            cell.execution_count = number
            cell.outputs = outputs(recorder.taken(), value, number=number)
            print(f"cell {number}: {time.process_time():.0f} s of CPU so far", file=sys.stderr)
    finally:
        sys.modules["__main__"], sys.stdout = usual


def execute(source: str, names: dict[str, Any], *, name: str) -> Any:
    """Run a cell and return the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), names)


def outputs(text: str, value: Any, *, number: int) -> list[Any]:
    """Return a cell's outputs as a kernel would, but pictures as JPEG."""
    found = []
    if text:
        found.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    if value is not None:
        data = {"text/plain": plain(value)}
        if isinstance(value, Image.Image):
            file = io.BytesIO()
            value.convert("RGB").save(file, "JPEG", quality=QUALITY, optimize=True)
            data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()
        found.append(
            nbformat.v4.new_output("execute_result", data, execution_count=number, metadata={})
        )
    return found


def plain(value: Any) -> str:
    """Return the text of a value; a picture's own has an address, which each run would change."""
    if isinstance(value, Image.Image):
        return f"<picture of {value.width} x {value.height}>"
    return repr(value)


def kinds(cell: Cell) -> list[str]:
    """Name what a cell shows: `stdout`, `text`, `picture`; once where a kernel sent it in parts."""
    found: list[str] = []
    for output in cell.outputs:
        data: Mapping[str, Any] = output.get("data", {})
        picture = any(kind.startswith("image/") for kind in data)
        kind = output.get("name") or ("picture" if picture else "text")
        # Warnings are of the surroundings: one is about widgets of Jupyter.
        if kind != "stderr" and found[-1:] != [kind]:
            found.append(kind)
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    book = nbformat.read(place, as_version=4)
    run(book, parameters="".join(sys.argv[3:4]))
    nbformat.validate(book)
    out = Path(sys.argv[2]) if sys.argv[2:] else place
    nbformat.write(book, out)
