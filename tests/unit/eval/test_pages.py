"""What the pages on evaluation say, beside what the commands need and the example was made with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("page", ["evaluation.md", "coco_lvis.md", "datasets.md"])
def test_official_weights_are_named_with_their_model(page: str) -> None:
    """A .pth does not say what it is of: without model= the command is refused as typed."""
    for line in (ROOT / "docs" / page).read_text().splitlines():
        for kind in re.findall(r"ckpt=\S*sam_(vit_[bhl])\S*", line):
            assert f" model={kind} " in line, line


def test_the_example_says_where_it_differs_from_the_papers_rules() -> None:
    rule = re.search(r"^report:.*?\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)
    page = (ROOT / "docs/evaluation.md").read_text()
    assert rule
    changed = re.findall(r"(?:proposals\.points_per_side|points\.noc_clicks)=\d+", rule[0])
    assert len(changed) == 2
    for setting in changed:
        assert f"`{setting}`" in page, setting
