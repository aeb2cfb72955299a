"""The model card, read by huggingface_hub's own parser; its code, run as it stands there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import Calibration, ClickScores
from sam_train.eval.frame.bootstrap import Interval
from sam_train.export.card import card_text, check_card_file, write_card
from sam_train.export.card_facts import CardFacts, run_facts
from sam_train.export.config import CardConfig, check_card
from sam_train.export.huggingface import save_huggingface
from sam_train.model import ModelConfig, build_from_config

TINY = ModelConfig(
    name="vit_t",
    image_size=64,
    embed_dim=16,
    heads=2,
    depth=1,
    global_blocks=[0],
    prompt_dim=32,
    decoder_depth=1,
    decoder_heads=2,
    decoder_mlp_dim=32,
    decoder_activation="gelu",
)


def scores(value: float) -> ClickScores:
    empty = Calibration(
        count=[0],
        predicted=[0.0],
        real=[0.0],
        mean_absolute_error=0.1,
        expected_error=0.1,
        correlation=0.5,
    )
    return ClickScores(
        miou={1: value, 3: value + 0.2},
        oracle=value + 0.1,
        masks=40,
        images=8,
        calibration=empty,
        box=value + 0.3,
        intervals={"miou_1": Interval(low=value - 0.05, high=value + 0.05)},
        groups=8,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path / "home" / "runs" / "nuclei"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "pictures").mkdir()
    settings = {
        "name": "nuclei",
        "run_dir": str(folder),
        "init_from": str(tmp_path / "home" / "sam_vit_b_01ec64.pth"),
        "seed": 3,
        "model": {"name": "vit_b", "image_size": None},
        "optim": {"lr": 1e-4, "tune": "decoder"},
        "prompts": {"first": ["point", "box"]},
        "data": {"train": ["coco:/home/me/cells/*.json", "/home/me/more/"], "val": "/home/me/val"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "scores_before.json").write_text(scores(0.1).to_json())
    (folder / "scores_after.json").write_text(scores(0.4).to_json())
    for name in ("clicks_0000000", "clicks_0000300", "curves"):
        Image.new("RGB", (4, 3)).save(folder / "pictures" / f"{name}.png")
    return folder


SAID = CardConfig(license="cc-by-nc-4.0", data_license="ask the clinic", datasets=["me/nuclei"])


def test_a_run_in_the_hubs_own_parser(run: Path, tmp_path: Path) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    facts = run_facts(run / "checkpoints" / "last.ckpt", SAID, default_name="folder")
    folder = tmp_path / "out"
    written = write_card(folder, facts, model=ModelConfig(name="vit_b"))
    names = [file.relative_to(folder).as_posix() for file in written]
    assert names == ["README.md", "pictures/clicks_0000300.png", "pictures/curves.png"]
    check_card_file(folder)
    card = hub.ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-nc-4.0", "transformers")
    assert data.pipeline_tag == "mask-generation"
    assert (data.base_model, data.datasets) == ("facebook/sam-vit-base", ["me/nuclei"])
    assert data.model_name == "nuclei"
    found = {each.metric_name: each.metric_value for each in data.eval_results}
    assert found == {
        "mIoU, 1 click (95 % 0.350 to 0.450)": 0.4,
        "mIoU, best of 3 after 1 click": 0.5,
        "mIoU, 3 clicks": 0.6,
        "mIoU, box": 0.7,
    }
    assert {each.dataset_name for each in data.eval_results} == {"val"}
    # Written again by the parser, nothing is lost.
    again = hub.ModelCard(card.content).data.to_dict()
    assert again == data.to_dict()
    text = card.text
    assert "| before training | 0.100 (.050-.150) | 0.200 | 0.300 | 0.400 |" in text
    assert "| this model | 0.400 (.350-.450) | 0.500 | 0.600 | 0.700 |" in text
    assert "Over 40 masks of 8 held-out images of val; 95 % intervals" in text
    assert "Trained on cells, more." in text
    assert "| prompts.first | point, box |" in text
    assert "ask the clinic" in text
    assert 'sam_model_registry["vit_b"]' in text
    assert "![curves](pictures/curves.png)" in text


def test_no_path_of_the_machine_is_published(run: Path) -> None:
    facts = run_facts(run / "checkpoints" / "last.ckpt", CardConfig(), default_name="folder")
    text = card_text(facts, model=TINY)
    assert "home" not in text
    assert str(run) not in text
    assert "Weights: not stated" in text
    assert "license:" not in text


def test_figures_are_of_the_last_checkpoint_alone(run: Path) -> None:
    earlier = run_facts(run / "checkpoints" / "step=250.ckpt", CardConfig(), default_name="folder")
    assert (earlier.before, earlier.after, earlier.pictures) == (None, None, ())
    assert earlier.settings["optim.lr"] == 1e-4
    assert "model-index" not in card_text(earlier, model=TINY)
    alone = run_facts(run.parent / "sam.pth", CardConfig(), default_name="folder")
    assert alone == CardFacts(name="folder")


def test_a_card_that_was_edited_stays(tmp_path: Path) -> None:
    first = CardFacts(name="cells")
    assert write_card(tmp_path, first, model=TINY) == [tmp_path / "README.md"]
    assert write_card(tmp_path, replace(first, name="cells 2"), model=TINY)
    assert "# cells 2" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("My own words.")
    assert write_card(tmp_path, first, model=TINY) == []
    assert (tmp_path / "README.md").read_text() == "My own words."


def test_names_that_break_yaml_and_tables(tmp_path: Path) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    name = 'a: "b" | # c — ü'
    facts = CardFacts(
        name=name, after=scores(0.4), measured_on="- {x}: y", settings={"seed": "1 | 2"}
    )
    data = hub.ModelCard(card_text(facts, model=TINY)).data
    assert data.model_name == name
    assert {each.dataset_name for each in data.eval_results} == {"- {x}: y"}
    assert "| seed | 1 \\| 2 |" in card_text(facts, model=TINY)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (CardConfig(license="Apache 2.0"), "card.license=Apache 2.0 is no abbreviation"),
        (CardConfig(datasets=["/home/me/cells"]), "is no data set of the hub"),
    ],
)
def test_what_the_hub_would_refuse(cfg: CardConfig, said: str) -> None:
    check_card(SAID)
    with pytest.raises(UserError, match=said):
        check_card(cfg)


def test_damaged_files_are_one_line(run: Path, tmp_path: Path) -> None:
    (run / "scores_after.json").write_text('{"miou": 3}')
    with pytest.raises(UserError, match="holds no scores"):
        run_facts(run / "checkpoints" / "last.ckpt", CardConfig(), default_name="x")
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not readable as settings") as caught:
        run_facts(run / "checkpoints" / "last.ckpt", CardConfig(), default_name="x")
    assert "\n" not in str(caught.value)
    pytest.importorskip("huggingface_hub")
    (tmp_path / "README.md").write_text("---\n- a list\n---\n")
    with pytest.raises(UserError, match="cannot read its header"):
        check_card_file(tmp_path)


@torch.no_grad()
def test_the_code_of_the_card_runs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "cells"
    save_huggingface(build_from_config(TINY).eval(), folder, model=TINY)
    write_card(folder, CardFacts(name="cells"), model=TINY)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    photo = Image.new("RGB", (80, 60), (90, 120, 30))
    for block in blocks:
        names: dict[str, Any] = {"FOLDER": str(folder), "photo": photo, "x": 40, "y": 30}
        exec(block, names)
        masks = names["masks"][0] if "masks" in names else names["answer"].masks
        assert masks.shape[-2:] == (60, 80)
