"""The findings of `evaluate` about a checkpoint as `report.html`, one page that needs no other
file, and as `report.json`, for programs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sam_train.errors import UserError
from sam_train.eval.frame.result import (
    MEASURED,
    Picture,
    Row,
    TaskResult,
    Value,
    shown,
)
from sam_train.eval.frame.tasks import load_task, task_names
from sam_train.runtime.files import write_text

_WEIGHT = 300_000
"""Most bytes of a PNG that goes into the page; larger pictures become WebP.

A film of twenty panels is 2 MB of PNG.
"""


@dataclass(slots=True, kw_only=True)
class Headline:
    """A figure of the table at the top."""

    task: str
    title: str
    figure: str
    measured: Value
    published: Value
    """SAM's figure; None where the paper gives none."""
    source: str = ""


@dataclass(slots=True, kw_only=True)
class Report:
    """The content of the page."""

    checkpoint: str
    results: list[TaskResult]
    left_out: dict[str, str] = field(default_factory=dict)
    """Reasons of the tasks that were not run or not measured, by task."""
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    def headlines(self) -> list[Headline]:
        """Return the main figures of each task beside SAM's published ones."""
        return [line for result in self.results for line in _headlines(result)]

    def to_json(self) -> str:
        """Return everything but the pictures as indented JSON."""
        results = {result.task: json.loads(result.to_json()) for result in self.results}
        tree = {
            "checkpoint": self.checkpoint,
            "created": self.created,
            "versions": _versions(),
            "headlines": [asdict(line) for line in self.headlines()],
            "left_out": self.left_out,
            "tasks": results,
        }
        return json.dumps(tree, indent=2) + "\n"


def write_report(
    results: Sequence[TaskResult],
    run_dir: Path,
    *,
    left_out: Mapping[str, str],
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write `run_dir/report.html` and `report.json` about `results`.

    Results that earlier commands left in `run_dir` about the same weights are shown, too.

    Args:
        results: at least one.
        left_out: reasons of the tasks that were not run.
        failed: reasons of the tasks that could not be measured. Their earlier figures are not
            shown, because the cause of the failure may be the very change since.

    Returns:
        The page.
    """
    # Results of other programs' files have no weights; any result of a model names the checkpoint.
    checkpoint, weights = next(((r.checkpoint, r.weights) for r in results if r.weights), ("", ""))
    found = {result.task: result for result in results}
    failed, names = failed or {}, task_names()
    for name in (name for name in names if name not in failed):
        earlier = _earlier(run_dir / name)
        if name not in found and earlier is not None and earlier.weights == weights:
            found[name] = earlier
    report = Report(
        checkpoint=checkpoint,
        results=[found[name] for name in names if name in found],
        left_out={n: why for n, why in {**left_out, **failed}.items() if n not in found},
    )
    page = run_dir / "report.html"
    write_text(run_dir / "report.json", report.to_json())
    write_text(page, _page(report, run_dir))
    return page


def _earlier(folder: Path) -> TaskResult | None:
    try:
        return TaskResult.read(folder)
    except UserError:
        return None


def _headlines(result: TaskResult) -> list[Headline]:
    name, columns = load_task(result.task).headline
    measured = [row for row in result.rows if row.source == MEASURED]
    if not measured:
        return []
    # Points with a random first click alone have no "average", only an "average, random first".
    whole = [row for row in measured if row.name == name]
    whole += [row for row in measured if name and row.name.startswith(f"{name},")]
    row = (whole or measured)[0]
    # The first of the paper's SAM rows; variants such as "single output" stand behind it.
    sam = next((r for r in result.rows if r.source != MEASURED and r.name.startswith("SAM")), None)
    other = "" if result.weights or not result.checkpoint else Path(result.checkpoint).name
    title = f"{result.title} (of {other})" if other else result.title
    return [
        Headline(
            task=result.task,
            title=title,
            figure=column,
            measured=row.values[column],
            published=sam.values.get(column) if sam else None,
            source=f"{sam.name}, {sam.source}" if sam else "",
        )
        for column in columns
        if row.values.get(column) is not None
    ]


def _page(report: Report, run_dir: Path) -> str:
    environment = Environment(
        loader=PackageLoader("sam_train.eval.frame", "templates"),
        # Names of files and groups come from outside.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    tasks = [
        {
            "result": result,
            "rows": [_cells(row, result.columns) for row in result.rows],
            "settings": json.dumps(result.details.get("settings", {}), indent=2),
            "small": _embedded(result.pictures, run_dir, kinds=("plot", "bars")),
            "wide": _embedded(result.pictures, run_dir, kinds=("film", "worst", "photo")),
        }
        for result in report.results
    ]
    return environment.get_template("report.html").render(
        report=report, headlines=report.headlines(), tasks=tasks, versions=_versions()
    )


def _cells(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "name": row.name,
        "source": "" if row.source == MEASURED else row.source,
        "cells": [shown(row.values.get(column)) for column in columns],
    }


def _embedded(
    pictures: Sequence[Picture], run_dir: Path, *, kinds: Sequence[str]
) -> list[dict[str, str]]:
    return [
        {"title": picture.title, "kind": picture.kind, "data": _data_url(run_dir / picture.path)}
        for picture in pictures
        if picture.kind in kinds and (run_dir / picture.path).is_file()
    ]


def _data_url(path: Path) -> str:
    data, kind = path.read_bytes(), "png"
    if len(data) > _WEIGHT:
        packed = io.BytesIO()
        with Image.open(path) as picture:
            picture.convert("RGB").save(packed, "WEBP", quality=88)
        data, kind = packed.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("sam_train", "torch", "numpy")}
