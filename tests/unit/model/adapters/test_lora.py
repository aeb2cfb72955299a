"""Low-rank adapters: where they stand, what they add, how they merge and are joined to others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_sam import randomised, tiny
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model import Sam, build_sam
from sam_train.model.adapters import frozen_prefix, tune
from sam_train.model.adapters.merge import merge_lora
from sam_train.model.lora_config import LoraConfig
from sam_train.train.optim import parameter_groups, roles_of
from sam_train.train.optim_config import OptimConfig
from sam_train.train.trained_parts import trained_parts


def trained(sam: Sam) -> set[str]:
    encoder = sam.image_encoder
    return {name for name, p in encoder.named_parameters() if p.requires_grad}


def adapted(sam: Sam, *, tuning: str = "lora", frozen: int = 0, last: int = 1, **lora: Any) -> Sam:
    tune(sam, tuning, frozen_blocks=frozen, last_blocks=last, lora=LoraConfig(**lora))
    torch.manual_seed(2)
    with torch.no_grad():
        for name, p in sam.named_parameters():
            if ".lora_B" in name:
                p.normal_(std=0.1)
    return sam


def embed(sam: Sam) -> Tensor:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return sam.eval().image_encoder(images.to(sam.image_encoder.pos_embed.dtype))


def test_a_layer_grows_by_the_product_of_its_adapter() -> None:
    """Rows of q and v by hand; k and the bias stay."""
    sam = adapted(randomised(), rank=3, alpha=6.0)
    layer = sam.image_encoder.units()[0].attn.qkv
    x = torch.randn(2, 5, 5, 16)
    expected = x @ layer.weight.T
    for part, rows in (("q", slice(0, 16)), ("v", slice(32, 48))):
        down, up = layer.get_parameter(f"lora_A_{part}"), layer.get_parameter(f"lora_B_{part}")
        assert (down.shape, up.shape) == ((3, 16), (16, 3))
        expected[..., rows] += 2.0 * (x @ down.T @ up.T)
    torch.testing.assert_close(layer.product(x), expected)
    torch.testing.assert_close(layer(x), expected + layer.bias)


@pytest.mark.parametrize("targets", [["q", "v"], ["k", "proj", "mlp"], ["qkv", "lin1"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_weights_answer_as_adapter_and_base(targets: list[str], dtype: torch.dtype) -> None:
    """Windows that are padded take another way through q, k and v: 4 tokens in windows of 3."""
    base = randomised(window_size=3).to(dtype)
    before = embed(base)
    sam = adapted(base, targets=targets, rank=2)
    expected = embed(sam)
    assert (expected - before).abs().max() > 0.01 * before.abs().max()
    plain = tiny(window_size=3).to(dtype)
    plain.load_state_dict(merge_lora(sam.state_dict()))
    limit = 1e-6 if dtype == torch.float32 else 1e-13
    assert (embed(plain) - expected).abs().max() <= limit * expected.abs().max()


def test_training_begins_at_the_base() -> None:
    sam = randomised(window_size=3)
    before = embed(sam)
    tune(sam, "lora")
    assert torch.equal(embed(sam), before)
    assert all("lora_" in name for name in trained(sam))
    assert frozen_prefix(sam) == 0


def test_blocks_are_chosen_and_frozen_ones_take_none() -> None:
    def blocks(**kwargs: Any) -> set[str]:
        return {n.split(".")[1] for n in trained(adapted(tiny(depth=4), **kwargs)) if "lora" in n}

    assert blocks() == {"0", "1", "2", "3"}
    assert blocks(frozen=3) == {"3"}
    assert blocks(blocks=[2, 1]) == {"1", "2"}
    assert blocks(tuning="lora+last_blocks", last=2) == {"0", "1"}
    assert frozen_prefix(adapted(tiny(depth=4), blocks=[2])) == 2
    assert frozen_prefix(adapted(tiny(depth=4), frozen=1, blocks=[2])) == 2


def test_joined_ways_train_what_each_of_them_trains() -> None:
    alone = {way: trained(adapted(tiny(), tuning=way)) for way in ("last_blocks", "norm_bias")}
    first = {n for n in trained(adapted(tiny())) if n.startswith("blocks.0.")}
    assert trained(adapted(tiny(), tuning="lora+norm_bias")) - alone["norm_bias"] >= first
    assert trained(adapted(tiny(), tuning="lora+last_blocks")) == alone["last_blocks"] | first
    both = alone["last_blocks"] | alone["norm_bias"]
    assert trained(adapted(tiny(), tuning="norm_bias+last_blocks")) == both
    assert trained(adapted(tiny(), tuning="full")) == {
        n for n, _ in tiny().image_encoder.named_parameters()
    }
    assert not trained(adapted(tiny(), tuning="decoder"))
    # As the same blocks counted from the image.
    sam = tiny()
    tune(sam, "all", frozen_blocks=1)
    assert alone["last_blocks"] == trained(sam)


@pytest.mark.parametrize(
    ("tuning", "lora", "said"),
    [
        ("lora+decoder", {}, "decoder is joined to nothing"),
        ("norm_bias+full", {}, "use all or norm_bias"),
        ("lora+lora", {}, "names a way twice"),
        ("lora+", {}, "optim.tune= is not one of"),
        ("lora", {"targets": ["q", "gate"]}, "have no gate; they have attn, k, lin1, lin2"),
        ("lora", {"targets": []}, "lora.targets is empty"),
        ("lora", {"blocks": [2]}, "block 2 takes no adapter"),
        ("lora+last_blocks", {"blocks": [1]}, r"trained whole are \[0\]"),
    ],
)
def test_what_means_nothing_is_refused(tuning: str, lora: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        adapted(tiny(), tuning=tuning, **lora)
    assert "\n" not in str(caught.value)


def test_no_block_is_left() -> None:
    with pytest.raises(UserError, match="lora has no block left"):
        adapted(tiny(), tuning="lora+last_blocks", last=2)
    with pytest.raises(UserError, match=r"last_blocks=2 must be from 1 to 1"):
        adapted(tiny(), tuning="last_blocks", frozen=1, last=2)


def test_an_encoder_of_convolutions_has_linear_layers_only_in_its_mlps() -> None:
    sizes = {"image_size": 64, "embed_dim": 16, "depth": 3}
    with pytest.raises(UserError, match="have no q; they have lin1, lin2, mlp"):
        adapted(build_sam("conv_t", **sizes))
    sam = adapted(build_sam("conv_t", **sizes), targets=["mlp"])
    assert len(trained(sam)) == 3 * 2 * 2
    plain = build_sam("conv_t", **sizes)
    plain.load_state_dict(merge_lora(sam.state_dict()))


def test_an_adapter_learns_at_its_blocks_rate_and_not_by_muon() -> None:
    sam = adapted(tiny())
    roles = roles_of(sam)
    name = "image_encoder.blocks.0.attn.qkv.lora_{}_q"
    assert [roles[name.format(c)].layer for c in "AB"] == [1, 1]
    assert not any(role.orthogonalises for n, role in roles.items() if ".lora_" in n)
    assert roles["image_encoder.blocks.0.attn.qkv.weight"].orthogonalises
    groups = parameter_groups(sam, cfg=OptimConfig(lr=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(sam.get_parameter(name.format("A")))] == 0.25


@pytest.mark.parametrize("damage", ["A", "weight", "shape"])
def test_half_an_adapter_is_not_merged(damage: str) -> None:
    state = dict(adapted(tiny()).state_dict())
    layer = "image_encoder.blocks.0.attn.qkv"
    if damage == "shape":
        state[f"{layer}.lora_B_q"] = torch.zeros(3, 4)
    else:
        del state[f"{layer}.{'lora_A_q' if damage == 'A' else 'weight'}"]
    with pytest.raises(ValueError, match=layer):
        merge_lora(state)


def test_the_line_about_what_is_trained_counts_vit_b() -> None:
    """4 x (768 + 768) numbers for q and for v in each of 12 blocks."""
    with torch.device("meta"):
        sam = build_sam("vit_b")
    tune(sam, "lora")
    found = trained_parts(sam, cfg=OptimConfig())
    decoder = sum(p.numel() for p in sam.mask_decoder.parameters())
    prompts = sum(p.numel() for p in sam.prompt_encoder.parameters())
    assert found.parts["image encoder"][0] == 12 * 2 * 4 * (768 + 768)
    assert found.parts["mask decoder"] == (decoder, decoder)
    assert found.gradient_bytes == 4 * (12 * 2 * 4 * (768 + 768) + decoder + prompts)
    assert found.optimizer_bytes == 2 * found.gradient_bytes
    assert "image encoder 147.46 k of 89.82 M" in str(found)
