"""The convolutional encoder in every place that asks an encoder something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sam_train.cluster.plan.costs import modules_of
from sam_train.cluster.plan.measure import compare
from sam_train.cluster.plan.settings import setting_of
from sam_train.errors import UserError
from sam_train.export.huggingface import save_huggingface
from sam_train.export.safetensors_file import save_weights
from sam_train.export.segment_anything import save_segment_anything
from sam_train.model import ModelConfig, Sam, build_from_config, build_sam
from sam_train.model.adapters import tune
from sam_train.model.build import resolve
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.digest import weights_digest
from sam_train.model.checkpoints.init import initialise
from sam_train.model.load import load_sam
from sam_train.settings.run import RunConfig
from sam_train.train.optim import parameter_groups, roles_of
from sam_train.train.optim_config import OptimConfig

SIZES: dict[str, Any] = {"image_size": 64, "embed_dim": 32, "depth": 4, "prompt_dim": 32}
SIZES |= {"decoder_heads": 2, "decoder_mlp_dim": 64}
PREFIX = "image_encoder."


def small(**more: Any) -> Sam:
    torch.manual_seed(0)
    return build_sam("conv_t", **(SIZES | more))


def test_it_is_as_large_as_vit_t_and_halves_four_times() -> None:
    sam = build_sam("conv_t")
    assert sum(p.numel() for p in sam.parameters()) < 2_500_000
    encoder = small().image_encoder
    assert (encoder.image_size, encoder.stride, encoder.channels) == (64, 16, 32)
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 32, 4, 4)


@torch.no_grad()
def test_it_computes_what_plain_channels_first_operations_compute() -> None:
    encoder = small().image_encoder
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    state = encoder.state_dict()
    images = torch.randn(2, 3, 64, 64)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        scale, shift = (state[f"{name}.{kind}"].view(-1, 1, 1) for kind in ("weight", "bias"))
        return (x - mean) / (var + 1e-6).sqrt() * scale + shift

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), **options)

    x = conv(images, "patch_embed", stride=4)
    for i, width in enumerate((8, 16, 32, 32)):
        name = f"layers.{i}"
        if f"{name}.halve.proj.weight" in state:
            x = conv(norm(x, f"{name}.halve.norm"), f"{name}.halve.proj", stride=2)
        branch = norm(conv(x, f"{name}.depthwise", padding=3, groups=width), f"{name}.norm")
        x = x + conv(F.gelu(conv(branch, f"{name}.mlp.lin1")), f"{name}.mlp.lin2")
    x = norm(conv(x, "neck.0"), "neck.1")
    x = norm(conv(x, "neck.2", padding=1), "neck.3")
    torch.testing.assert_close(encoder(images), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_changes_no_gradient_and_all_have_one(recompute: str) -> None:
    images, draws = torch.randn(2, 3, 64, 64), torch.rand(2, 4, 1)
    gradients = []
    for how in ("none", recompute):
        encoder = small(checkpoint_blocks=how, drop_path=0.5).train().image_encoder
        encoder(images, draws=draws).square().mean().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_drop_path_follows_its_draws() -> None:
    encoder = small(drop_path=0.5).train().image_encoder
    images, draws = torch.randn(2, 3, 64, 64), torch.rand(2, 4, encoder.branches)
    together = encoder(images, draws=draws)
    alone = encoder(images[1:], draws=draws[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder(images, draws=torch.zeros(2, 4, 1)), together)


def test_the_residual_stream_stays_float32_under_autocast() -> None:
    encoder = small().image_encoder
    seen = []
    for unit in encoder.units():
        unit.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.randn(1, 3, 64, 64))
    assert seen == [torch.float32] * 4


def test_layers_are_counted_from_the_image_and_frozen_from_there() -> None:
    sam = small()
    roles = roles_of(sam)
    layer = {name: role.layer for name, role in roles.items()}
    assert layer[f"{PREFIX}patch_embed.weight"] == 0
    assert layer[f"{PREFIX}layers.1.halve.proj.weight"] == 2
    assert layer[f"{PREFIX}layers.3.mlp.lin1.bias"] == 4
    assert layer[f"{PREFIX}neck.0.weight"] == layer["mask_decoder.iou_token.weight"] == 5
    assert roles[f"{PREFIX}layers.0.depthwise.weight"].decays
    muon = {name for name, role in roles.items() if role.orthogonalises and PREFIX in name}
    assert muon == {f"{PREFIX}layers.{i}.mlp.lin{k}.weight" for i in range(4) for k in (1, 2)}
    tune(sam, "all", frozen_blocks=2)
    frozen = {name for name, p in sam.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, number in layer.items() if number <= 2}
    groups = parameter_groups(sam, cfg=OptimConfig(lr=1.0, layer_decay=0.5))
    assert {group["lr"] for group in groups} == {1.0, 0.5, 0.25}


def test_an_image_encoder_that_is_stored_comes_back(tmp_path: Path) -> None:
    cfg = ModelConfig(name="conv_t", **SIZES)
    torch.manual_seed(1)
    sam = build_from_config(cfg)
    save_weights(sam, tmp_path / "conv.safetensors", model=cfg, dtype=torch.float32)
    again = load_sam(tmp_path / "conv.safetensors")
    assert weights_digest(again) == weights_digest(sam) != weights_digest(small())
    # The encoder alone begins a run, too.
    torch.save(sam.image_encoder.state_dict(), tmp_path / "encoder.pth")
    other = small()
    initialise(other, str(tmp_path / "encoder.pth"), InitConfig())
    for name, tensor in other.image_encoder.state_dict().items():
        assert torch.equal(tensor, sam.image_encoder.state_dict()[name]), name


def test_one_encoders_weights_are_not_taken_for_anothers(tmp_path: Path) -> None:
    vit = build_sam(
        "vit_t",
        image_size=64,
        embed_dim=32,
        **{k: SIZES[k] for k in ("prompt_dim", "decoder_heads", "decoder_mlp_dim")},
    )
    conv = small()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    torch.save(conv.state_dict(), tmp_path / "conv.pth")
    message = (
        r"its image encoder is of another kind .* init\.modules=\[prompt_encoder,mask_decoder\]"
    )
    for model, file in ((conv, "vit.pth"), (vit, "conv.pth")):
        before = weights_digest(model)
        with pytest.raises(UserError, match=message):
            initialise(model, str(tmp_path / file), InitConfig())
        assert weights_digest(model) == before
    initialise(
        conv, str(tmp_path / "vit.pth"), InitConfig(modules=["prompt_encoder", "mask_decoder"])
    )
    assert torch.equal(conv.mask_decoder.iou_token.weight, vit.mask_decoder.iou_token.weight)
    mae = {
        name.removeprefix(PREFIX).replace(".mlp.lin", ".mlp.fc"): tensor
        for name, tensor in vit.state_dict().items()
        if name.startswith((f"{PREFIX}blocks", f"{PREFIX}patch")) and "rel_pos" not in name
    }
    torch.save(mae, tmp_path / "mae.pth")
    with pytest.raises(UserError, match="another kind"):
        initialise(conv, f"mae:{tmp_path / 'mae.pth'}", InitConfig())


@pytest.mark.parametrize("save", [save_segment_anything, save_huggingface])
def test_formats_of_sams_vit_refuse_it(save: Callable[..., Any], tmp_path: Path) -> None:
    cfg = ModelConfig(name="conv_t", **SIZES)
    with pytest.raises(UserError, match=r"know SAM's ViT only, and model\.name=conv_t"):
        save(build_from_config(cfg), tmp_path / "out", model=cfg)
    assert not (tmp_path / "out").exists()


def test_sizes_of_a_vit_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.heads=4: conv_t has no such size"):
        resolve(ModelConfig(name="conv_t", heads=4))
    with pytest.raises(UserError, match=r"model\.image_size=72 is not a multiple of 16"):
        resolve(ModelConfig(name="conv_t", image_size=72))
    with pytest.raises(UserError, match=r"model\.depth=2 must be at least 3"):
        resolve(ModelConfig(name="conv_t", depth=2))


def config() -> RunConfig:
    cfg = RunConfig()
    cfg.model = ModelConfig(name="conv_t", **SIZES)
    cfg.data.batch_size, cfg.data.masks_per_image, cfg.trainer.max_steps = 2, 2, 1
    cfg.trainer.accelerator, cfg.trainer.devices = "cpu", "1"
    return cfg


def test_plan_knows_all_its_parts_and_counts_what_a_step_takes() -> None:
    sam = small()
    held = {id(p) for parts in modules_of(sam).values() for m in parts for p in m.parameters()}
    assert held == {id(p) for p in sam.parameters()}
    cfg = config()
    # As it is: on small maps a CPU's convolutions take more scratch than they leave behind.
    cfg.model = ModelConfig(name="conv_t")
    torch.set_num_threads(1)  # each thread of a kernel has a scratch of its own
    compared = compare(cfg, setting_of(cfg))
    assert compared.flops.planned == compared.flops.measured
    assert compared.memory.ratio == pytest.approx(1, abs=0.02)
