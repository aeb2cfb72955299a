"""What the pages say holds: commands, paths, settings, names, defaults and python."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from sam_train.cli import main
from sam_train.prompts import PromptsConfig
from sam_train.settings.compose import compose_config, typed
from sam_train.settings.explain import flat_keys
from sam_train.settings.run import RunConfig, check_config
from sam_train.settings.verbs import find_verbs
from sam_train.train.loss_config import LossConfig
from sam_train.train.optim_config import OptimConfig

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TRAINING = ROOT / "docs" / "training.md"
WEIGHTS = ROOT / "docs" / "weights.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The log tells what was typed at the time; settings may have moved since.
LIVING = [page for page in PAGES if page.name != "log.md" and "benchmarks" not in page.parts]
TOP = ("sam_train/", "conf/", "data_tools/", "tests/", "docs/", "launch/", "benchmarks/", ".ci/")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_OURS = ("weights_only", "iscrowd", "val")
"""Keys of torch and COCO, and of an option of data_tools.tile."""
SETTING = re.compile(r"\+{0,2}([a-z_]+(?:\.[a-z_]+)*)=(.*)")


def fences(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def spans(page: Path) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def commands(page: Path) -> list[str]:
    """Whole command lines of the code blocks, as a shell would join and start them."""
    lines = [
        line.removeprefix("$ ").strip()
        for body in fences(page, "")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if re.match(r"(python|make|sbatch) |launch/\w+\.sh ", line)]


def arguments_of_fit(command: str) -> list[str] | None:
    """The verb and the settings of a command that ends in sam_train; None for another."""
    words = shlex.split(command, comments=True)
    if words[:3] == ["python", "-m", "sam_train"]:
        return words[3:]
    launchers = [k for k, word in enumerate(words) if word.startswith("launch/")]
    return ["fit", *words[launchers[0] + 1 :]] if launchers else None


EVERY_COMMAND = [command for page in LIVING for command in commands(page)]
RUNS = [command for command in EVERY_COMMAND if arguments_of_fit(command)]
TOOLS = [command for command in EVERY_COMMAND if "-m data_tools." in command]


@pytest.fixture(scope="module")
def keys() -> set[str]:
    tree: Any = OmegaConf.to_container(OmegaConf.structured(RunConfig), resolve=False)
    return set(flat_keys(tree))


def test_the_pages_have_commands() -> None:
    assert len(RUNS) > 8
    assert TOOLS
    assert len([command for command in EVERY_COMMAND if command.startswith("make")]) > 5


@pytest.mark.parametrize("command", RUNS)
def test_settings_compose_and_fit_together(command: str) -> None:
    verb, *words = arguments_of_fit(command) or []
    assert verb in find_verbs() or verb == "--help"
    if "--cfg" in words:
        main([verb, *words])
        return
    cfg = typed(compose_config(words))
    if verb == "fit":
        check_config(cfg)


@pytest.mark.parametrize("command", TOOLS)
def test_options_of_the_data_tools_exist(command: str) -> None:
    module, *words = shlex.split(command)[2:]
    assert vars(importlib.import_module(module).parser().parse_args(words))


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_named_modules_and_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in [*commands(page), *spans(page)]:
        words = text.split()
        if words[0] == "make":
            assert words[1] in targets, text
        if words[:2] == ["python", "-m"]:
            importlib.import_module(words[2])


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    code = [*spans(page), *(line for body in fences(page, "") for line in body.splitlines())]
    for text in code:
        for word in text.split():
            if word.startswith(TOP) and not re.search(r"[A-Z]{3}|[*$<{]", word):
                assert (ROOT / word).exists(), word
    for target in re.findall(r"(?<!!)\[[^]]*\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)
def test_named_settings_exist(page: Path, keys: set[str]) -> None:
    sections = {key.split(".")[0] for key in keys if "." in key}
    for word in (word for text in spans(page) for word in text.split()):
        setting = SETTING.fullmatch(word)
        if setting and setting[1] in ("experiment", "debug"):
            name = setting[2]
            assert name in ("", "NAME") or (ROOT / "conf" / setting[1] / f"{name}.yaml").is_file()
        elif setting:
            assert setting[1] in keys or setting[1] in NOT_OURS, word
        elif word.endswith((".safetensors", ".pth", ".json", ".yaml", ".npz")):
            continue  # a file that is named like a section
        elif re.fullmatch(r"[a-z]+(\.[a-z_]+)+", word) and word.split(".")[0] in sections:
            assert word in keys, word


def test_names_of_the_code_in_extending_exist() -> None:
    sources = "".join(
        path.read_text()
        for top in ("sam_train", "data_tools")
        for path in (ROOT / top).rglob("*.py")
    )
    named = [n for n in spans(ROOT / "docs" / "extending.md") if re.fullmatch(r"[A-Za-z_.]+", n)]
    wanted = [
        part for name in named for part in name.split(".") if not name.islower() or "_" in part
    ]
    assert len(wanted) > 8
    for name in wanted:
        assert name in ("NAME", "FOLDER") or re.search(rf"\b{name}\b", sources), name


def test_every_recipe_mode_and_verb_is_mentioned() -> None:
    text = "".join(page.read_text() for page in (README, TRAINING, WEIGHTS))
    for group in ("experiment", "debug"):
        for recipe in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"`(\+{group}=)?{recipe.stem}`", text), recipe
    for verb in find_verbs():
        assert f"python -m sam_train {verb} " in text


def test_the_predictor_of_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = run_snippet(README)
    with Image.open(ROOT / "docs" / "pictures" / "photos.jpg") as photo:
        width, height = photo.size
    assert names["masks"].shape == (3, height, width)
    assert names["scores"].shape == (3,)


def test_the_model_of_the_python_page_runs() -> None:
    names = run_snippet(WEIGHTS)
    assert names["best"].shape == (480, 640)
    for module in ("image_encoder", "prompt_encoder", "mask_decoder"):
        assert f"`sam.{module}`" in WEIGHTS.read_text()
        assert hasattr(names["sam"], module)


def run_snippet(page: Path) -> dict[str, Any]:
    snippets = fences(page, "python")
    assert len(snippets) == 1
    names: dict[str, Any] = {}
    exec(compile(snippets[0], str(page), "exec"), names)
    return names


def test_the_defaults_that_the_pages_state() -> None:
    rows = {
        line.split("|")[-2].strip(): line.split("|")[2].strip()
        for line in TRAINING.read_text().splitlines()
        if line.count("|") == 4
    }
    loss, prompts = LossConfig(), PromptsConfig()
    stated = rows["`loss.focal_alpha`, `loss.focal_gamma`"]
    assert stated.startswith(f"{loss.focal_alpha:g} and {loss.focal_gamma:g}")
    assert (loss.resolution, rows["`loss.resolution`"][:18]) == ("grid", "on the 256² logits")
    assert (loss.iou_masks, rows["`loss.iou_masks`"]) == ("all", "all three")
    limits = (prompts.box_noise_limits, rows["`prompts.box_noise_limits`"])
    assert limits == ("draw", "the draw is limited")
    assert (OptimConfig().grad_clip, rows["`optim.grad_clip`"]) == (0, "none")
    assert prompts.curriculum == []


def test_help_names_what_the_pages_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    for name in ("run_dir=", "resume=", "init_from=", "data.train=", "logger=", "seed="):
        assert name in shown
        assert f"`{name}`" in TRAINING.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_is_about_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)\b", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_are_there_and_no_gap_is_left(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"<!-- FILL \w+", text)
    for picture in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", text):
        assert (page.parent / picture).is_file(), picture


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 90
