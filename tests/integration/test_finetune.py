"""The verb `finetune` on a dozen drawn photos, as a person types it, and stopped on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import sam_train
from sam_train.cli import main
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.finetuning.look import look
from sam_train.finetuning.measure import KEPT_IMAGES, shipped_scenes
from sam_train.finetuning.record import read_record
from sam_train.finetuning.run import run
from sam_train.model.load import load_sam
from sam_train.train.checkpoints.retention import steps_in

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
FAST = [
    "model.image_size=64",
    "trainer.max_steps=4",
    "optim.tune=lora",
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
PHOTOS = 12


def command(folder: Path, run_dir: Path) -> list[str]:
    words = [f"data.train={folder}", f"init_from={NANO}", f"run_dir={run_dir}", *FAST]
    # The scenes that ship take seconds to measure.
    words += [f"eval.keep=masks:{folder}"]
    return [forked.python(), "-m", "sam_train", "finetune", *words]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two discs, with label maps; one has none, and one is no photo."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for k in range(PHOTOS):
        labels = Image.new("L", (96, 72))
        for label in (1, 2):
            x, y = rng.integers(8, 70), rng.integers(8, 50)
            ImageDraw.Draw(labels).ellipse((x, y, x + 18, y + 14), fill=label)
        grey = np.asarray(labels, dtype=np.int64) * 90 + rng.integers(0, 60, (72, 96))
        photo = Image.fromarray(np.repeat(grey[..., None], 3, 2).clip(0, 255).astype(np.uint8))
        photo.save(folder / "images" / f"{k}.png")
        labels.save(folder / "masks" / f"{k}.png")
    Image.new("L", (96, 72)).save(folder / "masks" / "3.png")
    (folder / "images" / "4.png").write_bytes(b"no photo")
    return folder


@dataclass(frozen=True)
class Done:
    """A finished run."""

    run_dir: Path
    said: str
    """The output of both calls."""


@pytest.fixture(scope="module")
def done(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run that was stopped by SIGTERM while it trained, and then called again."""
    run_dir = tmp_path_factory.mktemp("run") / "mine"
    process = subprocess.Popen(
        command(mine, run_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = run_dir / "log.txt"
    while process.poll() is None and not (
        log.is_file() and "of this run lies in" in log.read_text()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode in (75, 0), said
    again = subprocess.run(command(mine, run_dir), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    return Done(run_dir=run_dir, said=said + again.stdout)


def test_a_person_is_told_what_is_there_and_what_is_not(done: Done) -> None:
    assert "10 photos with 20 masks" in done.said
    assert "unusable: 1 image, no mask" in done.said
    assert done.said.count("4.png") >= 1
    # Frozen units are in eval mode on purpose; Lightning's advice about it is none.
    assert "in eval mode" not in done.said
    assert "the same by hand:\npython -m sam_train fit " in done.said
    assert Image.open(done.run_dir / "look.jpg").width > 1000


def test_a_table_and_pictures_end_it(done: Done) -> None:
    table = done.said[done.said.rindex("held-out photos:") :]
    assert "before, 128 px" in table
    assert "before, 64 px" in table
    assert "after, 64 px" in table
    assert "mIoU over 20 masks of 10 photos" in table
    assert Image.open(done.run_dir / "objects.jpg").width > 1000


def test_no_photo_stands_on_both_sides(done: Done) -> None:
    train, val = (
        json.loads((done.run_dir / "split" / f"{side}.json").read_text())["include"]
        for side in ("train", "val")
    )
    assert not set(train) & set(val)
    # What cannot be used stays with the training photos, where it is counted.
    assert len(train) + len(val) == PHOTOS
    assert not [name for name in val if name.endswith(("/3.png", "/4.png"))]


def test_the_written_weights_are_the_measured_ones(done: Done) -> None:
    record = read_record(done.run_dir)
    assert record is not None
    names = [Path(path).name for path in record.written]
    assert names == ["model.safetensors", "sam.pth", "huggingface"]
    assert (done.run_dir / "sam.json").is_file()
    # The run's own checkpoint has adapters; what is handed on has none.
    stored = torch.load(record.best, weights_only=True)["state_dict"]
    assert any(".lora_" in name for name in stored)
    assert not any(".lora_" in name for name in load_file(record.written[0]))
    models = [load_sam(path) for path in (record.best, *record.written)]
    assert len(models) == 4
    for other in models[1:]:
        for name, value in models[0].state_dict().items():
            # Hugging Face's layout changes the decoder's activation, and with it some weights.
            if "output_upscaling" not in name:
                torch.testing.assert_close(other.state_dict()[name], value)


def test_the_card_has_the_figures_of_the_table(done: Done) -> None:
    record = read_record(done.run_dir)
    assert record is not None
    card = (done.run_dir / "huggingface" / "README.md").read_text()
    after = ClickScores.from_json(record.scores["after"])
    before = ClickScores.from_json(record.scores["before_128"])
    rows = [line for line in card.splitlines() if line.startswith(("| before", "| this model"))]
    assert len(rows) == 2
    assert f"{after.miou[9]:.3f}" in rows[1]
    assert f"{before.miou[9]:.3f}" in rows[0]
    assert "Training began with the weights nano.safetensors" in card
    assert (done.run_dir / "huggingface" / "pictures" / "objects.jpg").is_file()


def test_fit_with_the_printed_settings_does_the_same(done: Done, tmp_path: Path) -> None:
    record = read_record(done.run_dir)
    assert record is not None
    main(["fit", *record.fit, f"run_dir={tmp_path}"])
    own, other = (
        json.loads((folder / "scores_after.json").read_text())
        for folder in (done.run_dir, tmp_path)
    )
    assert own["miou"] == pytest.approx(other["miou"])


def test_a_run_that_gets_no_better_ends_and_is_found_ended(mine: Path, tmp_path: Path) -> None:
    words = command(mine, tmp_path)[4:]
    words += ["trainer.max_steps=40", "callbacks.validation.every=1", "checkpoint.patience=2"]
    # Nothing moves, so nothing gets better.
    words += ["optim.lr=1e-12", "optim.muon_lr=1e-12"]
    first = run(words, dry_run=False)
    assert steps_in(tmp_path / "checkpoints")[-1] == 2
    record = read_record(tmp_path)
    assert record is not None
    # As if it had been stopped between training and measuring.
    record.best, record.written = "", []
    del record.scores["after"]
    record.save(tmp_path)
    again = run(words, dry_run=False)
    assert steps_in(tmp_path / "checkpoints")[-1] == 2
    assert again.after == first.after


def test_other_settings_are_refused_and_a_dry_run_trains_nothing(
    done: Done, mine: Path, tmp_path: Path
) -> None:
    words = command(mine, done.run_dir)[4:]
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", *words, "seed=1"])
    found = sam_train.finetune(
        f"masks:{mine}", init_from=NANO, settings=[*FAST, f"run_dir={tmp_path}"], dry_run=True
    )
    assert found.weights is None
    assert "trainer.max_steps=4" in found.settings
    assert not (tmp_path / "metrics.csv").exists()


def test_the_scenes_that_ship_can_be_measured_on() -> None:
    shards = open_shards([str(shipped_scenes())], option="eval.keep")
    found = look(shards, source="scenes", max_area_fraction=0.9)
    assert len(found.seen) == KEPT_IMAGES
    assert not found.left_out


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    for words, said in (
        ([], r"data\.train is not set"),
        (["data.train=x"], r"init_from is not set"),
        (["data.train=x", "init_from=y", "trainer.num_nodes=2"], "one machine"),
        # Before photos are read, which takes long.
        (["data.train=x", "init_from=y"], "^y: no such file"),
        (["data.train=x", f"init_from={NANO}", "eval.keep=z"], r"^eval\.keep: z does not exist"),
        (["data.train=x", f"init_from={NANO}", "finetune.minutes=0"], "must be above 0"),
    ):
        with pytest.raises(UserError, match=said):
            run([*words, f"run_dir={tmp_path}"], dry_run=False)
