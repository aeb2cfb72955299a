"""A file from outside adds a section and a verb, and a broken one is named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import forked
import pytest

PLUGIN = """
from dataclasses import dataclass

from sam_train.settings.run import RunConfig, check_config
from sam_train.settings.sections import run_check, section, setting
from sam_train.settings.verbs import verb


@section("lens", resume="harmless")
@dataclass
class LensConfig:
    \"\"\"A section of a stranger.\"\"\"

    focus: float = setting(1.0, above=0)
    map: str = setting("", path="one")


@run_check
def sharp(cfg: RunConfig) -> None:
    if cfg.lens.focus == 7:
        raise ValueError("asked")


@verb(summary="look", example="python -m sam_train look")
def look(overrides):
    from sam_train.settings.compose import load_config

    cfg = load_config(overrides)
    print(type(cfg).__mro__[1].__name__, cfg.lens, isinstance(cfg, RunConfig))
    check_config(cfg)
"""


def sam_train(*arguments: str, plugins: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked.python(), "-m", "sam_train", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SAM_TRAIN_PLUGINS": plugins},
    )


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "lens_plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_one_file_adds_a_section_and_a_verb(plugin: Path, as_folder: bool) -> None:
    source = str(plugin.parent if as_folder else plugin)
    done = sam_train("look", "data.train=x", "lens.map=a={b,c}", "lens.focus=2", plugins=source)
    assert done.stdout == "RunConfig LensConfig(focus=2.0, map='a={b,c}') True\n", done.stderr
    assert done.returncode == 0
    shown = sam_train("fit", "--cfg", "job", plugins=source).stdout
    assert shown.endswith("lens:\n  focus: 1.0\n  map: ''\n")


def test_its_ranges_and_checks_are_asked(plugin: Path) -> None:
    refused = sam_train("look", "data.train=x", "lens.focus=0", plugins=str(plugin))
    assert refused.stderr == "error: lens.focus=0.0 must be above 0\n"
    asked = sam_train("look", "data.train=x", "lens.focus=7", plugins=str(plugin))
    assert "ValueError: asked" in asked.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.py", "gone.py is neither a file, a folder nor a module"),
        ("no_such_module_here", "cannot be imported: ModuleNotFoundError"),
        ("broken.py", "cannot be imported: ZeroDivisionError"),
        ("json.py", "json.py has the name of another module: rename it"),
    ],
)
def test_what_cannot_be_imported_is_named(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "json.py").write_text("")
    source = str(tmp_path / name) if name.endswith(".py") else name
    done = sam_train("fit", "--cfg", "job", plugins=source)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
