"""Recipes compose and say what the paper says; what does not fit is refused in one line."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from sam_train.data.feed.loader import check_masks_per_gpu
from sam_train.errors import UserError
from sam_train.model.build import resolve
from sam_train.runtime.devices import parse_devices
from sam_train.settings import compose as module
from sam_train.settings.compose import compose_config, keys_of, load_config, paths_of, readable
from sam_train.settings.recipes import config_dir
from sam_train.settings.run import RootConfig, RunConfig, check_config
from sam_train.settings.words import _WORDS

CONF = Path(__file__).resolve().parents[3] / "conf"
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))

# Segment Anything, section A: the table of the paper, typed from it and not from conf/.
PAPER: dict[str, dict[str, Any]] = {
    "vit_h": {
        "model.name": "vit_h",
        "model.image_size": 1024,
        "model.drop_path": 0.4,
        "data.batch_size": 256,
        "data.masks_per_image": 64,
        "data.masks_per_gpu": 64,
        "data.max_area_fraction": 0.9,
        "prompts.points": 8,
        "prompts.mask_only": 2,
        "prompts.box_probability": 0.5,
        "prompts.box_noise": 0.1,
        "prompts.box_noise_limit": 20,
        "prompts.curriculum": [],
        "loss.focal_weight": 20,
        "loss.dice_weight": 1,
        "loss.iou_weight": 1,
        "optim.lr": 8e-4,
        "optim.betas": [0.9, 0.999],
        "optim.weight_decay": 0.1,
        "optim.layer_decay": 0.8,
        "optim.warmup_steps": 250,
        "optim.schedule": "step",
        "optim.decay_factor": 0.1,
        "trainer.max_steps": 90_000,
    },
    "vit_l": {
        "model.name": "vit_l",
        "model.drop_path": 0.4,
        "data.batch_size": 128,
        "data.masks_per_gpu": 64,
        "optim.lr": 4e-4,
        "optim.layer_decay": 0.8,
        "trainer.max_steps": 180_000,
    },
    "vit_b": {
        "model.name": "vit_b",
        "model.drop_path": 0.6,
        "data.batch_size": 128,
        "data.masks_per_gpu": 64,
        "optim.lr": 8e-4,
        "optim.layer_decay": 0.6,
        "trainer.max_steps": 180_000,
    },
    "data_engine": {
        "model.name": "vit_h",
        "model.decoder_depth": 3,
        "data.scale_jitter": [0.1, 2.0],
        "prompts.points": 4,
        "prompts.box_probability": 0.0,
        "trainer.max_steps": 177_656,
    },
}
BLOCKS = {
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
}


def value(cfg: Any, key: str) -> Any:
    for name in key.split("."):
        cfg = getattr(cfg, name)
    return cfg


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        check_config(load_config(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_complete(name: str) -> None:
    cfg = load_config([f"+experiment={name}"])
    assert cfg.name == name
    cfg.data.train = "x.tar"
    check_config(cfg)


@pytest.mark.parametrize("group", ["debug", "model", "logger"])
def test_every_other_option_composes(group: str) -> None:
    options = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
    assert options
    for option in options:
        plus = "+" if group == "debug" else ""
        cfg = load_config([f"{plus}{group}={option}", "data.train=x.tar"])
        check_config(cfg)
        if group == "model":
            assert cfg.model.name == option
        if group == "logger":
            assert [cfg.logger.wandb, cfg.logger.tensorboard] == [
                option == "wandb",
                option == "tensorboard",
            ]


@pytest.mark.parametrize("debug", sorted(p.stem for p in (CONF / "debug").glob("*.yaml")))
def test_a_debugging_mode_goes_with_any_recipe(debug: str) -> None:
    assert load_config(["+experiment=quickstart", f"+debug={debug}"]).model.name == "vit_t"


@pytest.mark.parametrize("name", sorted(PAPER))
def test_recipes_say_what_the_paper_says(name: str) -> None:
    cfg = load_config([f"+experiment={name}"])
    assert {key: value(cfg, key) for key in PAPER[name]} == PAPER[name]


@pytest.mark.parametrize("name", ["vit_l", "vit_b", "data_engine"])
def test_smaller_recipes_are_vit_h_but_for_what_they_say(name: str) -> None:
    def flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in dataclasses.fields(cfg):
            item = getattr(cfg, field.name)
            path = f"{prefix}{field.name}"
            out |= flat(item, f"{path}.") if dataclasses.is_dataclass(item) else {path: item}
        return out

    base, own = (flat(load_config([f"+experiment={n}"])) for n in ("vit_h", name))
    differing = {key for key in base if base[key] != own[key]}
    assert differing <= PAPER[name].keys() | {"name", "run_dir"}


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_names_of_recipes_are_the_papers_encoders(name: str) -> None:
    arch = resolve(load_config([f"+experiment={name}"]).model)
    assert (arch.embed_dim, arch.depth, arch.heads, tuple(arch.global_blocks)) == BLOCKS[name]


def test_the_papers_milestones() -> None:
    cfg = load_config(["+experiment=vit_h"])
    steps = [round(m * cfg.trainer.max_steps) for m in cfg.optim.milestones]
    assert steps == [60_000, 86_666]
    assert cfg.optim.milestones == pytest.approx(RunConfig().optim.milestones, abs=1e-6)


def test_names_people_type() -> None:
    cfg = load_config(
        [
            "run_dir=/tmp/a",
            "resume=never",
            "init_from=mae:x.pth",
            "seed=3",
            "data.train=[a.tar,'b_{0..3}.tar']",
            "data.val=https://example.org/v.tar",
            "trainer.max_steps=7",
            "trainer.devices=2",
            "trainer.num_nodes=3",
            "trainer.strategy=ddp",
            "trainer.precision=bf16-mixed",
            "logger=wandb",
            "ckpt=a.pth",
        ]
    )
    assert (cfg.run_dir, cfg.resume, cfg.init_from, cfg.seed) == (
        "/tmp/a",
        "never",
        "mae:x.pth",
        3,
    )
    assert cfg.data.train == ["a.tar", "b_{0..3}.tar"]
    assert cfg.data.val == "https://example.org/v.tar"
    trainer = cfg.trainer
    assert (trainer.max_steps, trainer.devices, trainer.num_nodes) == (7, "2", 3)
    assert (trainer.strategy, trainer.precision) == ("ddp", "bf16-mixed")
    assert cfg.logger.wandb
    assert cfg.ckpt == "a.pth"


def test_run_dir_follows_the_name() -> None:
    assert load_config(["+experiment=vit_b"]).run_dir == "runs/vit_b"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data.train=/sa1b/sa_{000000..000999}.tar", "/sa1b/sa_{000000..000999}.tar"),
        ("data.train=[/a/sa_{0..9}.tar,{b,c}.tar]", ["/a/sa_{0..9}.tar", "{b,c}.tar"]),
        ("data.train=[val/*.tar, b.tar]", ["val/*.tar", "b.tar"]),
        ("data.train=https://h/a.tar?x=1&y=2", "https://h/a.tar?x=1&y=2"),
        ("data.train=/a dir/(1).tar", "/a dir/(1).tar"),
        ("data.train=/plain.tar", "/plain.tar"),
    ],
)
def test_paths_need_no_quotes_of_their_own(typed: str, meant: Any) -> None:
    assert load_config([typed]).data.train == meant


def test_a_comma_in_a_name_is_no_list(tmp_path: Path) -> None:
    photos = tmp_path / "New York, 2020"
    photos.mkdir()
    assert load_config([f"generate.input={photos}"]).generate.input == str(photos)
    assert load_config(["run_dir=runs/a,b"]).run_dir == "runs/a,b"
    with pytest.raises(UserError, match=r"brackets: 'data.train=\[a.tar,b.tar\]'"):
        load_config(["data.train=a.tar,b.tar"])


def test_our_own_checkpoint_names_can_be_typed() -> None:
    assert load_config(["resume=r/checkpoints/step=500.ckpt"]).resume.endswith("step=500.ckpt")
    assert readable("trainer.max_steps=3", paths_of(RunConfig)) == "trainer.max_steps=3"


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("trainer.max_step=3", "trainer.max_steps"),
        ("++trainer.max_step=3", "trainer.max_steps"),
        ("+trainer.max_step=3", "trainer.max_steps"),
        ("optm.lr=1", "optim.lr"),
        ("lr=1", "optim.lr"),
        ("max_steps=5", "trainer.max_steps"),
        ("modl=vit_b", "model"),
        ("+experiment=vit_hh", "vit_h"),
        ("+debug=overfitt", "overfit"),
        ("experiment=vit_h", "+experiment"),
        ("+experimnt=vit_h", "+experiment"),
        ("model=vit_x", "vit_h"),
        ("logger=wanb", "wandb"),
        ("prompts.curriculum=[{until: 1.0, pints: 2}]", "points"),
        ("trainer.nothing_like_it=1", "max_steps"),
        ("prompts.carry=best", "predicted_iou"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, nearest: str) -> None:
    message = refusal(typed)
    assert nearest in message.replace(typed, "")


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("trainer.max_steps=abc", "trainer.max_steps"),
        ("trainer.max_steps=null", "trainer.max_steps"),
        ("trainer.deterministic=maybe", "trainer.deterministic"),
        ("optim.lr=fast", "optim.lr"),
        ("optim.betas=0.9", "optim.betas"),
        ("trainer=3", "trainer"),
        ("run_dir=runs/${nme}", "run_dir"),
        ("seed", "KEY=VALUE"),
        ("seed=[1", "seed"),
    ],
)
def test_a_wrong_type_is_refused_by_name(typed: str, key: str) -> None:
    assert key in refusal(typed)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (["data.train="], "data.train"),
        (["data.batch_size=6", "trainer.accumulate=4"], "data.batch_size=6"),
        (["trainer.max_steps=0"], "trainer.max_steps=0"),
        (["trainer.precision=fp8"], "bf16-mixed"),
        (["trainer.matmul_precision=low"], "highest"),
        (["trainer.profiler=fast"], "simple"),
        (["trainer.accelerator=abacus"], "cpu"),
        (["optim.schedule=cosin"], "cosine"),
        (["optim.betas=[0.9]"], "optim.betas"),
        (["optim.milestones=[60000]"], "fractions"),
        (["optim.warmup_steps=-1"], "optim.warmup_steps"),
        (["model.image_size=1000"], "992"),
        (["model.patch_size=0"], "model.patch_size=0"),
        (["model.heads=0"], "model.heads=0"),
        (["model.decoder_heads=0"], "model.decoder_heads=0"),
        (["model.window_size=-8"], "model.window_size=-8"),
        (["model.drop_path=1.0"], "model.drop_path=1.0"),
        (["prompts.points=-1"], "points=-1"),
        (["prompts.box_probability=5"], "prompts.box_probability=5"),
        (["prompts.box_noise_limit=-1"], "prompts.box_noise_limit=-1"),
        (["prompts.curriculum=[{until: 30, points: 2}]"], "until=30"),
        (["loss.focal_alpha=25"], "loss.focal_alpha=25"),
        (["loss.points.importance=2"], "loss.points.importance=2"),
        (["loss.points.number=0"], "loss.points"),
        (["loss.dice_weight=-1"], "loss.dice_weight"),
        (["callbacks.validation.clicks=[0]"], "clicks"),
        (["callbacks.validation.first=middle"], "centre, random"),
        (["callbacks.validation.images=0"], "callbacks.validation.images=0"),
        (["callbacks.validation.max_masks=0"], "callbacks.validation.max_masks=0"),
    ],
)
def test_settings_that_no_run_can_mean(typed: list[str], key: str) -> None:
    assert key in refusal("data.train=x.tar", *typed)


@pytest.mark.parametrize(
    ("line", "key"),
    [("max_stps: 3", "trainer.max_steps"), ("max_steps: many", "trainer.max_steps")],
)
def test_a_slip_inside_a_recipe_is_found(
    line: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in config_dir().rglob("*.yaml"):
        copy = tmp_path / path.relative_to(config_dir())
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text())
    recipe = f"# @package _global_\ntrainer:\n  {line}\n"
    (tmp_path / "experiment" / "slip.yaml").write_text(recipe)
    monkeypatch.setattr(module, "config_dir", lambda: tmp_path)
    message = refusal("+experiment=slip")
    assert key in message
    assert message.startswith("conf/experiment/slip.yaml: ")


def test_yaml_states_no_default_twice() -> None:
    """fit.yaml only chooses options: what stands in dataclasses is not repeated there."""
    assert set(compose_config([])) == {f.name for f in dataclasses.fields(RunConfig)}
    assert "defaults:" in (CONF / "fit.yaml").read_text()


def config_classes(cls: type, seen: set[type]) -> set[type]:
    seen.add(cls)
    for hint in typing.get_type_hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and part not in seen:
                config_classes(typing.cast(type, part), seen)
    return seen


@pytest.mark.parametrize(
    "cls",
    sorted(config_classes(RunConfig, set()) - {RunConfig} | {RootConfig}, key=lambda c: c.__name__),
)
def test_every_setting_has_its_docstring(cls: type) -> None:
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "the one that dataclass makes"
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    bare = []
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            documented = (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            )
            if not documented:
                bare.append(node.target.id)
    assert bare == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("epochs=10", r"trainer\.max_steps=N counts updates; E epochs are N = E x photos"),
        ("trainer.max_epochs=10", r"trainer\.max_steps=N"),
        ("device=cuda", r"trainer\.accelerator=gpu"),
        ("gpus=2", r"trainer\.devices=2"),
        ("batch_size=4", r"did you mean data\.batch_size\?"),
        ("lr=1e-4", r"did you mean optim\.lr\?"),
        ("learning_rate=1e-4", r"optim\.lr"),
        ("workers=2", r"did you mean data\.workers\?"),
        ("num_workers=2", r"data\.workers=N"),
        ("checkpoint=sam.pth", r"init_from=PATH starts.*resume=PATH.*ckpt=PATH"),
        ("weights=sam.pth", r"init_from=PATH"),
        ("fp16=true", r"trainer\.precision=16-mixed"),
        ("bf16=true", r"trainer\.precision=bf16-mixed"),
        ("trainer.precision=16", r"did you mean 16-mixed\?"),
        ("trainer.precision=FP16", r"did you mean 16-mixed\?"),
        ("trainer.devices=cuda", r"trainer\.accelerator=gpu or cpu"),
        ("data=photos", r"data is a group of settings.*data\.train=PATH"),
        ("dataset=coco", r"data\.train=PATH"),
        ("image_size=512", r"did you mean model\.image_size\?"),
        ("output_dir=o", r"run_dir=DIR"),
        ("save-dir=o", r"run_dir=DIR"),
        ("wandb=true", r"did you mean logger\.wandb\?"),
        ("patience=3", r"did you mean checkpoint\.patience\?"),
    ],
)
def test_words_of_other_programs_are_understood(word: str, answer: str) -> None:
    def read() -> None:
        cfg = load_config(["data.train=x", word])
        check_config(cfg)
        parse_devices(cfg.trainer.devices)

    with pytest.raises(UserError, match=answer) as error:
        read()
    assert "\n" not in str(error.value)


def test_every_setting_that_is_named_in_place_of_a_word_exists() -> None:
    keys = keys_of(RunConfig)
    for word, meaning in _WORDS.items():
        assert word == word.lower().replace("_", ""), word
        for setting in re.findall(r"(?<![\w.])([a-z_]+\.[a-z_.]+|run_dir|seed|resume)=", meaning):
            assert setting in keys, (word, setting)


@pytest.mark.parametrize(
    ("more", "bound"),
    [
        ([], 64),
        (["data.batch_size=8"], 64),
        (["data.batch_size=8", "data.masks_per_image=16"], None),
        (["data.masks_per_image=16", "data.masks_per_gpu=64"], 64),
        (["data.masks_per_gpu=null"], None),
    ],
)
def test_the_papers_bound_holds_for_the_papers_masks(more: list[str], bound: int | None) -> None:
    """Eight photos with 16 masks each fit on a card, and nobody took them from the paper."""
    cfg = load_config(["+experiment=vit_b", "data.train=x", "init_from=sam.pth", *more])
    assert cfg.data.masks_per_gpu == bound
    if "data.masks_per_image=16" in more and bound is None:
        check_masks_per_gpu(cfg.data, world_size=1, accumulate=1)
    elif bound:
        with pytest.raises(UserError, match=r"trainer\.accumulate="):
            check_masks_per_gpu(cfg.data, world_size=1, accumulate=1)
