"""Sections are found, and each setting says its range, its quotes and its effect on resume."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import pytest

import sam_train
from sam_train.errors import UserError
from sam_train.settings import run as module
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig, check_config
from sam_train.settings.sections import (
    SECTIONS,
    Resume,
    Setting,
    check_section,
    sections,
    setting,
    settings_of,
)
from sam_train.train.checkpoints.differences import differences, report_differences

SETTINGS = dict(settings_of(RunConfig))
PATHS = {name: said.path for name, said in SETTINGS.items() if said.path}


def types(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(cls):
        inner: Any = field.default_factory
        if dataclasses.is_dataclass(inner):
            yield from types(cast(type, inner), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", str(field.type)


KINDS = {name: (kind, SETTINGS[name]) for name, kind in types(RunConfig)}


def test_the_view_of_type_checkers_is_what_is_registered() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    (view,) = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "RunConfig")
    seen = {
        node.target.id: ast.unparse(node.annotation)
        for node in view.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert seen == {one.name: one.cls.__name__ for one in sections()}
    assert list(seen) == [f.name for f in dataclasses.fields(RunConfig)][-len(seen) :]


def test_settings_name_no_room() -> None:
    """At run time: what stands under TYPE_CHECKING does not count."""
    rooms = {p.name for p in Path(sam_train.__file__).parent.iterdir() if p.is_dir()} - {"settings"}
    for path in Path(module.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition("sam_train.")[2].split(".")[0] not in rooms


def test_every_setting_declares_its_effect_on_resume() -> None:
    assert len(SETTINGS) > 200
    for name, said in SETTINGS.items():
        assert said.resume in get_args(Resume), name


@pytest.mark.parametrize(
    ("names", "effect"),
    [
        ("doctor.seconds data.val_batch_size eval.masks edges.nms probe.batch", "harmless"),
        ("callbacks.validation.every generate.parts onnx.opset trainer.deterministic", "harmless"),
        ("data.max_skip_fraction data.masks_per_gpu init.modules init_from", "harmless"),
        ("data.train data.exclude data.mode prompts.points loss.points.number", "applies"),
        ("seed optim.schedule trainer.precision model.drop_path data.batch_size", "applies"),
        ("optim.name optim.frozen_blocks", "refused"),
        ("optim.lr optim.muon_lr optim.betas optim.weight_decay optim.layer_decay", "restored"),
        ("name run_dir resume ckpt out task", "silent"),
    ],
)
def test_the_effects(names: str, effect: str) -> None:
    for name in names.split():
        assert SETTINGS[name].resume == effect, name


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_run_says_what_was_declared(name: str, caplog: pytest.LogCaptureFixture) -> None:
    then, now, effect = nested(name, 1), nested(name, 2), SETTINGS[name].resume
    found = differences(then, now)
    if effect == "silent":
        assert found == []
        return
    (one,) = found
    assert (one.name, one.resume) == (name, effect)
    if effect == "refused":
        with pytest.raises(UserError, match="set it as it was"):
            report_differences(then, now, source="last.ckpt")
        return
    with caplog.at_level("INFO", logger="sam_train"):
        report_differences(then, now, source="last.ckpt")
    (record,) = caplog.records
    assert record.levelname == ("INFO" if effect == "harmless" else "WARNING")
    assert name in record.getMessage()


def values(cfg: Any) -> dict[str, Any]:
    found = {}
    for name in PATHS:
        value = cfg
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


@pytest.mark.parametrize("folder", ["step=500", "sa_{000..009}", "a {b,c} (1)", "[1]", "x=1&y=2"])
def test_every_path_takes_what_paths_have_in_them(folder: str) -> None:
    typed = f"/data/{folder}/last.ckpt"
    cfg = load_config([f"{name}={typed}" for name in PATHS])
    assert values(cfg) == dict.fromkeys(PATHS, typed)


def test_every_path_takes_commas(tmp_path: Path) -> None:
    place = tmp_path / "New York, 2020"
    place.mkdir()
    typed = {name: str(place) for name in PATHS} | {"eval.datasets": f"NAME=coco:{place}"}
    assert values(load_config([f"{name}={value}" for name, value in typed.items()])) == typed


def test_every_other_text_is_known_to_be_no_path() -> None:
    words = {
        *("name", "task", "format", "dtype", "model.name", "model.decoder_activation"),
        *("model.checkpoint_blocks", "generate.formats", "trainer.devices", "plan.gpu"),
        *("checkpoint.metric", "logger.project", "logger.entity"),
        *("card.name", "card.license", "card.data_license", "push"),
        # Names of a registry, which refuses others itself.
        *("trainer.objective", "optim.tune", "model.attention"),
    }
    texts = {
        name
        for name, (kind, said) in KINDS.items()
        if kind in ("Any", "str", "str | None") and not said.choices
    }
    assert texts == words | set(PATHS)


@dataclasses.dataclass
class Inner:
    share: float = setting(0.5, minimum=0, below=1)


@dataclasses.dataclass
class Example:
    count: int = setting(1, minimum=1)
    least: float = setting(0.0, minimum=0, below=math.inf)
    rate: float = setting(1.0, above=0)
    both: float = setting(0.5, above=0, maximum=1)
    low: float = setting(0.0, maximum=1)
    between: float = setting(0.5, above=0, below=1)
    some: int | None = setting(None, minimum=1)
    word: str = setting("", choices=("", "on"))
    free: str = "anything"
    inner: Inner = dataclasses.field(default_factory=Inner)
    stages: list[Inner] = setting([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "x.count=0 must be at least 1"),
        ({"least": -1.0}, "x.least=-1.0 must not be negative"),
        ({"least": math.inf}, "x.least=inf must be finite"),
        ({"least": math.nan}, "x.least=nan must not be negative"),
        ({"rate": 0.0}, "x.rate=0.0 must be above 0"),
        ({"both": 0.0}, "x.both=0.0 must be above 0 and at most 1"),
        ({"both": 1.5}, "x.both=1.5 must be above 0 and at most 1"),
        ({"low": 2.0}, "x.low=2.0 must be at most 1"),
        ({"between": 1.0}, "x.between=1.0 must be above 0 and below 1"),
        ({"some": 0}, "x.some=0 must be at least 1, or null"),
        ({"word": "off"}, "x.word=off: use one of '', on"),
        ({"inner": Inner(share=1.0)}, "x.inner.share=1.0 must be from 0 to below 1"),
        ({"stages": [Inner(), Inner(share=-1.0)]}, "x.stages[1].share=-1.0 must be from 0"),
    ],
)
def test_ranges_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    check_section(Example(), "x")
    with pytest.raises(UserError) as caught:
        check_section(Example(**values), "x")
    assert str(caught.value).startswith(message)


def test_lists_are_not_shared() -> None:
    Example().stages.append(Inner())
    assert Example().stages == []


def test_a_run_refuses_what_any_section_declares() -> None:
    cfg = load_config(["data.train=x.tar", "probe.batch=0"])
    with pytest.raises(UserError, match=r"probe\.batch=0 must be at least 1"):
        check_config(cfg)


def test_two_owners_of_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two sections are called data"):
        module_section = sam_train.settings.sections.section("data")
        module_section(Example)
    assert SECTIONS["data"].cls.__name__ == "DataConfig"


def test_metadata_without_bounds_refuse_nothing() -> None:
    assert not Setting().refuses(math.nan)
    assert not Setting().refuses("x")
