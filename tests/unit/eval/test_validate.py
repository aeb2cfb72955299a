"""`validate` against what the training run measured itself, from every kind of file of ours."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from sam_train.cli import main
from sam_train.data.shards.groups_file import write_groups
from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.eval.validate import validate
from sam_train.export.run import export
from sam_train.export.safetensors_file import save_weights
from sam_train.model import ModelConfig, build_from_config
from sam_train.model.load import load_sam
from sam_train.train.fit import fit

SIZES = ["model.image_size=64", "model.depth=2", "model.global_blocks=[0,1]", "model.prompt_dim=64"]
MODEL = ModelConfig(name="vit_t", image_size=64, depth=2, global_blocks=[0, 1], prompt_dim=64)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of noise with two rectangles each."""
    out, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    samples = []
    for number in range(2):
        jpeg = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(jpeg, "jpeg")
        masks = np.zeros((2, 64, 96), dtype=bool)
        masks[0, 8:40, 10 + number : 50] = True
        masks[1, 30:60, 60:90] = True
        annotations = [annotation(mask, id=2 * number + k) for k, mask in enumerate(masks)]
        samples.append(
            ShardSample(
                image_id=number, jpeg=jpeg.getvalue(), width=96, height=64, annotations=annotations
            )
        )
    write_shards(samples, out)
    return out


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps that measured itself at the end."""
    run_dir = tmp_path_factory.mktemp("run")
    fit(
        [
            "model=vit_t",
            *SIZES,
            f"data.train={scenes}",
            *common(scenes),
            "data.batch_size=1",
            "data.masks_per_image=2",
            "prompts.points=1",
            "trainer.max_steps=2",
            "checkpoint.every_steps=2",
            f"run_dir={run_dir}",
        ]
    )
    return run_dir


def common(scenes: Path) -> list[str]:
    return [
        f"data.val={scenes}",
        "data.workers=0",
        "trainer.accelerator=cpu",
        "callbacks.validation.clicks=[1,2]",
        "callbacks.validation.film_rows=1",
    ]


def figures_of(path: Path) -> ClickScores:
    return ClickScores.from_json(path.read_text())


def test_a_checkpoint_scores_what_its_run_measured(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    # No model=: vit_b at 1024 is the default, so the sizes can only come from the file.
    scores = validate(
        [f"ckpt={trained / 'checkpoints/last.ckpt'}", *common(scenes), f"run_dir={tmp_path}"]
    )
    assert scores == figures_of(trained / "scores_after.json")
    assert scores == figures_of(tmp_path / "scores.json")
    assert scores.miou[1] != figures_of(trained / "scores_before.json").miou[1]
    assert scores.masks == 4
    text = (tmp_path / "log.txt").read_text()
    assert f"{scores.miou[2]:.3f}" in text
    for name in ("calibration.png", "clicks.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
            assert picture.convert("L").getextrema()[0] < 128  # something is drawn
        assert str(tmp_path / name) in text


def test_photos_of_one_scene_are_resampled_together(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(scenes, ours)
    arguments = [f"ckpt={trained / 'checkpoints/last.ckpt'}", *common(ours)]
    apart = validate([*arguments, f"run_dir={tmp_path / 'apart'}"])
    assert set(apart.intervals) == {"miou_1", "oracle", "miou_2", "box"}
    assert (apart.groups, apart.grouped) == (2, False)
    write_groups(ours, {"sa_0": "Patient 1", "sa_1": "Patient 1"})
    # What a single prompt asks for is the training's to say.
    one = "prompts.multimask_first_round=false"
    together = validate([*arguments, one, f"run_dir={tmp_path / 'together'}"])
    assert together.intervals == {}
    assert (together.groups, together.grouped) == (1, True)
    assert together.masks == apart.masks
    assert together.oracle == together.miou[1]
    assert together.box != apart.box


def test_exported_weights_score_the_same_up_to_their_rounding(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "small.safetensors"
    assert export([f"ckpt={trained / 'checkpoints/last.ckpt'}", f"out={file}"]) == file
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["model_config"])["prompt_dim"] == 64
        dtypes = {str(opened.get_tensor(name).dtype) for name in list(opened.keys())}
    assert dtypes == {"torch.float16"}
    scores = validate([f"ckpt={file}", *common(scenes), f"run_dir={tmp_path / 'out'}"])
    before = figures_of(trained / "scores_after.json")
    assert scores.miou == pytest.approx(before.miou, abs=0.02)


def test_weights_without_sizes_need_model(scenes: Path, tmp_path: Path) -> None:
    sam = build_from_config(MODEL)
    torch.save(sam.state_dict(), tmp_path / "plain.pth")
    settings = [f"ckpt={tmp_path / 'plain.pth'}", *common(scenes), f"run_dir={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="its ViT has width 128 and 2 blocks"):
        validate(settings)
    assert validate([*settings, "model=vit_t", *SIZES]).masks == 4


def test_the_command_line_goes_before_what_the_file_records(tmp_path: Path, scenes: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_weights(build_from_config(MODEL), file, model=MODEL)
    settings = [f"ckpt={file}", *common(scenes), f"run_dir={tmp_path / 'out'}"]
    assert validate([*settings, "model.image_size=96"]).masks == 4
    assert "pos_embed (4x4 -> 6x6)" in (tmp_path / "out/log.txt").read_text()
    with pytest.raises(UserError, match="its ViT has width 128"):
        validate([*settings, "model=vit_s"])


def parts_of(folder: Path) -> tuple[Path, Path]:
    """A model that records its sizes, and its decoder alone."""
    torch.manual_seed(3)
    sam = build_from_config(MODEL)
    save_weights(sam, folder / "whole.safetensors", model=MODEL, dtype=torch.float32)
    decoder = {n: t for n, t in sam.state_dict().items() if n.startswith("mask_decoder.")}
    torch.save(decoder, folder / "decoder.pth")
    return folder / "whole.safetensors", folder / "decoder.pth"


@pytest.mark.parametrize("verb", ["validate", "evaluate", "export"])
def test_part_of_a_model_is_refused(
    verb: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, decoder = parts_of(tmp_path)
    settings = [f"ckpt={decoder}", "model=vit_t", *SIZES, f"run_dir={tmp_path / 'out'}"]
    settings += [*common(scenes), "task=points", f"eval.datasets=shards:{scenes}"]
    settings.append(f"out={tmp_path / 'out.safetensors'}")
    for named in ([], ["init.modules=[mask_decoder]"]):
        with pytest.raises(SystemExit) as ended:
            main([verb, *settings, *named])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "all 37 of image_encoder, all 17 of prompt_encoder" in error
    assert not (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "out/scores.json").exists()


def test_a_decoder_over_its_model_is_that_model(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, decoder = parts_of(tmp_path)
    # No model=: the second file knows the sizes.
    both = [f"ckpt={decoder}", f"init_from={whole}"]
    export([*both, f"out={tmp_path / 'joined.safetensors'}", "dtype=float32"])
    text = capsys.readouterr().out
    assert f"Initialised from {decoder} (SAM, segment-anything's names): 120 tensors" in text
    assert f"Initialised from {whole} (SAM, segment-anything's names): 54 tensors" in text
    joined, expected = load_sam(tmp_path / "joined.safetensors"), load_sam(whole)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(joined.state_dict()[name], tensor)
    first = validate([*both, *common(scenes), f"run_dir={tmp_path / 'a'}"])
    assert first == validate([f"ckpt={whole}", *common(scenes), f"run_dir={tmp_path / 'b'}"])
    log = (tmp_path / "a/log.txt").read_text()
    assert f"{decoder} over {whole} on" in log
    assert "54 other tensors come from" in log


def test_the_model_before_a_first_step_is_measured_with_a_warning(
    scenes: Path, tmp_path: Path
) -> None:
    sam = build_from_config(MODEL).image_encoder
    torch.save(sam.state_dict(), tmp_path / "encoder.pth")
    settings = [f"init_from={tmp_path / 'encoder.pth'}", "model=vit_t", *SIZES, *common(scenes)]
    scores = validate([*settings, f"run_dir={tmp_path / 'a'}"])
    log = (tmp_path / "a/log.txt").read_text()
    assert "WARNING" in log
    assert "leaves 137 tensors random: this is the model before a run's first step, seed=0" in log
    assert scores == validate([*settings, f"run_dir={tmp_path / 'b'}"])
    with pytest.raises(UserError, match="would be random"):
        export([*settings, f"out={tmp_path / 'a.safetensors'}"])


def test_load_sam_gives_back_the_model(tmp_path: Path) -> None:
    sam = build_from_config(MODEL)
    save_weights(sam, tmp_path / "a/half.safetensors", model=MODEL)
    save_weights(sam, tmp_path / "whole.safetensors", model=MODEL, dtype=torch.float32)
    loaded = load_sam(tmp_path / "whole.safetensors")
    assert (loaded.image_size, loaded.training) == (64, False)
    for name, tensor in sam.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    half = load_sam(tmp_path / "a/half.safetensors").state_dict()
    for name, tensor in sam.state_dict().items():
        torch.testing.assert_close(half[name], tensor, rtol=2**-11, atol=1e-7)
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a/half.safetensors"]


def test_refuses_to_save_what_float16_cannot_hold(tmp_path: Path) -> None:
    sam = build_from_config(MODEL)
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] = 1e6
    with pytest.raises(UserError, match=r"iou_token\.weight is not finite"):
        save_weights(sam, tmp_path / "x.safetensors", model=MODEL)
    with pytest.raises(UserError, match="safetensors"):
        save_weights(sam, tmp_path / "x.pth", model=MODEL)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_sizes_names_the_other_way(tmp_path: Path) -> None:
    torch.save(build_from_config(MODEL).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(UserError, match="build_sam"):
        load_sam(tmp_path / "plain.pth")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["validate"], "ckpt="),
        (["validate", "ckpt={tmp}/none.ckpt"], "no such file"),
        (["validate", "ckpt={tmp}/small.safetensors"], "data.val is not set"),
        (["validate", "ckpt={tmp}/small.safetensors", "data.val={tmp}/no.tar"], "no.tar"),
        (
            [
                "validate",
                "ckpt={tmp}/small.safetensors",
                "data.val={scenes}",
                "data.workers=0",
                "callbacks.validation.first=left",
            ],
            "callbacks.validation.first=left: use one of centre, random",
        ),
        (["export", "ckpt={tmp}/small.safetensors"], "out is not set"),
        (["export", "ckpt={tmp}/small.safetensors", "out={tmp}/w.bin"], "*.safetensors"),
    ],
)
def test_what_is_wrong_in_one_line(
    settings: list[str],
    says: str,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_weights(build_from_config(MODEL), tmp_path / "small.safetensors", model=MODEL)
    arguments = [text.format(tmp=tmp_path, scenes=scenes) for text in settings]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, f"run_dir={tmp_path / 'out'}"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert error.startswith("error: ")
    assert "\n" not in error
