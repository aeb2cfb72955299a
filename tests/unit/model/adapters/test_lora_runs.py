"""A run with adapters: resumed to the bit, used by the other verbs, handed on in peft's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_tools.sample import SampleConfig, write_sample
from sam_train.errors import UserError
from sam_train.export.probe import Answer, Question, answer, random_probe
from sam_train.export.run import export
from sam_train.model import Sam, build_sam
from sam_train.model.adapters.merge import merge_lora
from sam_train.model.checkpoints.adapter_folder import read_adapter
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise, load_whole
from sam_train.model.checkpoints.state_dicts import MODULES
from sam_train.model.load import load_sam
from sam_train.model.sam import PIXEL_MEAN, PIXEL_STD
from sam_train.train.fit import fit

SIZES = ("model=vit_t", "model.image_size=64", "model.depth=2", "model.embed_dim=32")
SIZES += ("model.heads=2", "model.global_blocks=[1]", "model.window_size=3")
RUN = ("prompts.points=1", "prompts.mask_only=0", "data.batch_size=2", "data.workers=0")
RUN += ("data.masks_per_image=2", "trainer.accelerator=cpu", "trainer.log_every=1")
RUN += ("optim.warmup_steps=0", "callbacks.validation.every=0", "checkpoint.every_steps=2")
LORA = ("optim.tune=lora+last_blocks", "optim.last_blocks=1", "lora.alpha=3", "optim.lr=1e-2")
LORA += ("lora.targets=[q,v,mlp]", "model.checkpoint_blocks=selective", "optim.ema=0.9")
PROBE = random_probe(64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a run of adapters on it, and what `export` writes of both."""
    folder = tmp_path_factory.mktemp("lora")
    scenes = folder / "scenes"
    write_sample(SampleConfig(scenes=4, height=64, width=64, zoom=2.0), scenes, workers=0)
    common = [*SIZES, *RUN, f"data.train={scenes}"]
    fit([*common, "trainer.max_steps=1", f"run_dir={folder / 'base'}"])
    base = f"init_from={folder / 'base/checkpoints/last.ckpt'}"
    fit([*common, *LORA, base, "trainer.max_steps=4", f"run_dir={folder / 'run'}"])
    halfway = f"resume='{folder / 'run/checkpoints/step=2.ckpt'}'"
    fit([*common, *LORA, "trainer.max_steps=4", f"run_dir={folder / 'again'}", halfway])
    export([f"ckpt={folder / 'base/checkpoints/last.ckpt'}", f"out={folder / 'hf'}"])
    run = f"ckpt={folder / 'run/checkpoints/last.ckpt'}"
    hf = f"init_from={folder / 'hf'}"
    export([run, hf, f"out={folder / 'adapter'}", "format=lora"])
    return folder


def stored(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / name / "checkpoints/last.ckpt"
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def fresh() -> Sam:
    sizes = {"depth": 2, "embed_dim": 32, "heads": 2, "global_blocks": [1], "window_size": 3}
    return build_sam("vit_t", image_size=64, **sizes).eval()


def test_it_resumes_to_the_bit_and_leaves_the_base(folder: Path) -> None:
    run, again, base = (stored(folder, name) for name in ("run", "again", "base"))
    assert run.keys() == again.keys()
    assert all(torch.equal(run[name], again[name]) for name in run)
    moved = {n for n in base if not torch.equal(base[n], run[n]) and ".image_encoder." in n}
    assert moved
    assert all(
        n.startswith(("sam.image_encoder.blocks.1.", "sam.image_encoder.neck.")) for n in moved
    )
    ups = [t for n, t in run.items() if ".lora_B" in n]
    assert len(ups) == 4
    assert all(t.abs().max() > 1e-4 for t in ups)


def test_other_adapters_do_not_resume(folder: Path) -> None:
    common = [*SIZES, *RUN, f"data.train={folder / 'scenes'}", f"run_dir={folder / 'other'}"]
    resume = f"resume={folder / 'run/checkpoints/last.ckpt'}"
    with pytest.raises(UserError, match=r"other adapters .*set optim\.tune"):
        fit([*common, *LORA, "lora.rank=2", resume])


def test_a_loaded_checkpoint_is_merged_and_averaged(folder: Path) -> None:
    path = folder / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    averaged = content["state_dict"] | content["average"]
    expected = fresh()
    expected.load_state_dict(merge_lora({n.removeprefix("sam."): t for n, t in averaged.items()}))
    loaded = load_sam(path)
    assert answer(loaded, PROBE).difference(answer(expected, PROBE)) == 0
    # A run may begin at it: new adapters on merged weights.
    report = initialise(fresh(), str(path), InitConfig())
    assert "adapters (LoRA) of 3 layers merged" in str(report)


def test_the_folder_gives_back_what_was_trained(folder: Path) -> None:
    assert {p.name for p in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    sam = fresh()
    reports = load_whole(sam, str(folder / "adapter"), InitConfig(), beneath=str(folder / "hf"))
    trained = load_sam(folder / "run/checkpoints/last.ckpt")
    assert answer(sam, PROBE).difference(answer(trained, PROBE)) < 1e-6
    assert "adapters of 3 layers" in str(reports[0])
    # As every verb that takes ckpt= does.
    out = folder / "merged.safetensors"
    export(
        [f"ckpt={folder / 'adapter'}", f"init_from={folder / 'hf'}", f"out={out}", "dtype=float32"]
    )
    assert answer(load_sam(out), PROBE).difference(answer(trained, PROBE)) < 1e-6


def test_a_folder_that_means_nothing_here_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = str(folder / "adapter")
    with pytest.raises(UserError, match=r"hf, says the folder\); name those, too: init_from=BASE"):
        load_whole(fresh(), adapter, InitConfig())
    with pytest.raises(UserError, match="merge them first: export"):
        initialise(fresh(), adapter, InitConfig())
    other = build_sam("vit_t", image_size=64, depth=2, global_blocks=[1])
    with pytest.raises(UserError, match="build the model that it was trained on"):
        load_whole(other, adapter, InitConfig(), beneath=str(folder / "hf"))
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    for change, said in (
        ({"peft_type": "IA3"}, "only LORA can be merged"),
        ({"use_dora": True}, "have use_dora"),
        ({"lora_alpha": "much"}, "is no number"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match=said):
            read_adapter(str(tmp_path), modules=MODULES)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    one = next(name for name in tensors if "lora_A" in name)
    for gone, said in (({one}, "no whole adapter"), (set(tensors), "no whole adapter")):
        rest = {n: t for n, t in tensors.items() if n not in gone}
        save_file(rest, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match=said):
            read_adapter(str(tmp_path), modules=MODULES)


def test_what_holds_no_adapters_is_not_written_as_such(folder: Path) -> None:
    base = f"ckpt={folder / 'base/checkpoints/last.ckpt'}"
    with pytest.raises(UserError, match=r"holds no adapters; train them with optim\.tune=lora"):
        export([base, f"out={folder / 'none'}", "format=lora"])


@torch.no_grad()
def ask(model: object, probe: Question) -> Answer:
    """Ask transformers' model, peft's wrapper around it or not."""
    vision = torch.zeros(1, 3, *probe.images.shape[2:])
    h, w = probe.photo.shape[1:]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    vision[0, :, :h, :w] = (probe.photo - mean) / std
    embeddings = model.get_image_embeddings(vision)  # type: ignore[attr-defined]
    found = model(  # type: ignore[operator]
        image_embeddings=embeddings,
        input_points=probe.point[None, None],
        input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
        multimask_output=True,
    )
    return Answer(embeddings=embeddings, logits=found.pred_masks[0], iou=found.iou_scores[0])


def test_peft_puts_our_adapters_onto_transformers_sam(folder: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    base = transformers.SamModel.from_pretrained(folder / "hf").eval()
    trained = answer(load_sam(folder / "run/checkpoints/last.ckpt"), PROBE)
    assert ask(base, PROBE).difference(trained) > 1e-2
    wrapped = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    assert ask(wrapped, PROBE).difference(trained) < 1e-5


@pytest.mark.parametrize("stabilised", [False, True])
def test_adapters_that_peft_wrote_are_merged_here(
    folder: Path, tmp_path: Path, stabilised: bool
) -> None:
    """Encoder and decoder, ranks and factors that differ by layer, a module trained whole."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    base = transformers.SamModel.from_pretrained(folder / "hf").eval()
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["qkv", "lin1", "q_proj"],
        rank_pattern={"lin1": 2},
        alpha_pattern={"lin1": 7},
        modules_to_save=["neck"],
        use_rslora=stabilised,
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    sam = fresh()
    load_whole(sam, str(tmp_path), InitConfig(), beneath=str(folder / "hf"))
    assert ask(theirs, PROBE).difference(answer(sam, PROBE)) < 1e-5
