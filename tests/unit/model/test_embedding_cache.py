"""The embedding cache gives what the encoder gives, within float16, and never another's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_sam
import torch
from torch import Tensor, nn

from sam_train.model import Sam
from sam_train.model.embedding_cache import EmbeddingCache, encode_batch
from sam_train.model.encoders.base import ImageEncoder
from sam_train.model.frozen_part import FrozenPart, frozen_part, keep_frozen
from sam_train.model.load import build_sam
from sam_train.runtime.disk_store import DiskStore
from sam_train.runtime.fingerprint import pixels_fingerprint
from sam_train.types import Batch

SIDE = 64
SIZES = [(64, 40), (30, 64), (64, 64)]
CONV = {"image_size": 64, "embed_dim": 32, "depth": 4, "prompt_dim": 16}
CONV |= {"decoder_heads": 2, "decoder_mlp_dim": 16}


def batch_of(*photos: int, hashed: bool = True) -> Batch:
    """Photos of a fixed set of three; they have no masks."""
    images = torch.zeros(len(photos), 3, SIDE, SIDE, dtype=torch.uint8)
    for image, number in zip(images, photos, strict=True):
        h, w = SIZES[number]
        generator = torch.Generator().manual_seed(number)
        image[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
    sizes = torch.tensor([SIZES[number] for number in photos])
    cut = [image[:, :h, :w].movedim(0, -1) for image, (h, w) in zip(images, sizes, strict=True)]
    return Batch(
        images=images,
        image_sizes=sizes,
        original_sizes=sizes,
        masks=torch.zeros(0, 16, 16, dtype=torch.uint8),
        image_index=torch.zeros(0, dtype=torch.int64),
        points=torch.zeros(0, 2),
        boxes=torch.zeros(0, 4),
        mask_ids=torch.zeros(0, dtype=torch.int64),
        keys=[str(number) for number in photos],
        positions=list(photos),
        image_hashes=[pixels_fingerprint(one.numpy()) for one in cut] if hashed else None,
    )


def frozen(sam: Sam, units: int | None) -> Sam:
    """Freeze the stem and some units, or with None the whole encoder."""
    encoder = sam.image_encoder
    if units is None:
        encoder.requires_grad_(False)
    else:
        for parameter in [*encoder.stem(), *encoder.units()[:units].parameters()]:
            parameter.requires_grad_(False)
    keep_frozen(sam)
    return sam


def vit(units: int | None, *, seed: int = 1, **sizes: float) -> Sam:
    return frozen(tiny_sam.randomised(seed=seed, **sizes), units)


def opened(folder: Path, sam: Sam) -> EmbeddingCache:
    part = frozen_part(sam)
    assert part is not None
    return EmbeddingCache(DiskStore(folder, limit=1 << 30, setting="some.cache"), part=part)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


@pytest.mark.parametrize("units", [None, 1, 2])
@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_it_is_the_encoder_within_float16(kind: str, units: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sam = vit(units) if kind == "vit" else frozen(build_sam("conv_t", **CONV), units)
    batch = batch_of(0, 1, 2)
    expected = encode_batch(sam, batch).detach()
    cache = opened(tmp_path, sam)
    computed = cache(sam, batch)
    assert cache.store.hits == 0
    again = opened(tmp_path, sam)
    read = again(sam, batch)
    assert (again.store.hits, again.store.misses) == (3, 0)
    # From the disk or just computed: bit for bit the same.
    assert torch.equal(read, computed)
    assert computed.dtype == torch.float32
    assert not torch.equal(computed, expected)
    scale = expected.abs().max()
    torch.testing.assert_close(computed, expected, rtol=2e-3, atol=2e-3 * float(scale))
    if units is None:
        assert torch.equal(computed, computed.half().float())


def test_what_is_trained_behind_it_has_the_encoders_gradients(tmp_path: Path) -> None:
    gradients = []
    for cached in (False, True):
        sam = vit(1)
        embed = opened(tmp_path, sam) if cached else encode_batch
        embed(sam, batch_of(0, 1)).square().mean().backward()
        gradients.append({n: p.grad for n, p in sam.named_parameters() if p.grad is not None})
    plain, cached_ones = gradients
    assert plain.keys() == cached_ones.keys()
    assert any("blocks.1." in name for name in plain)
    assert not any("blocks.0." in name or "pos_embed" in name for name in plain)
    for name, gradient in plain.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(cached_ones[name], gradient, rtol=0.05, atol=0.01 * scale)


def test_the_batch_the_photo_comes_in_makes_no_difference(tmp_path: Path) -> None:
    sam = vit(1)
    alone = opened(tmp_path / "a", sam)
    one = torch.cat([alone(sam, batch_of(k)) for k in (2, 0, 1)])
    # Two of the three are there already, and one photo comes twice.
    cache = opened(tmp_path / "a", sam)
    for path in entries(tmp_path / "a")[:1]:
        path.unlink()
    mixed = cache.part.rest(sam.image_encoder, _raw(cache, sam, (2, 0, 1, 0)), draws=None)
    torch.testing.assert_close(mixed[:3], one)
    raw = _raw(opened(tmp_path / "b", sam), sam, (2, 0, 1, 0))
    assert torch.equal(raw, _raw(cache, sam, (2, 0, 1, 0)))
    assert torch.equal(raw[1], raw[3])
    assert len(entries(tmp_path / "b")) == 3


def _raw(cache: EmbeddingCache, sam: Sam, photos: tuple[int, ...]) -> Tensor:
    """The output of the frozen part: no unit behind it."""
    own = FrozenPart(units=cache.part.units, whole=False)
    seen: list[Tensor] = []
    unit: nn.Module = sam.image_encoder.units()[own.units]
    handle = unit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    cache(sam, batch_of(*photos))
    handle.remove()
    return seen[0]


def test_flips_and_other_sizes_are_further_entries(tmp_path: Path) -> None:
    sam = vit(None)
    cache = opened(tmp_path, sam)
    batch = batch_of(2, hashed=False)
    flipped = replace(batch, images=batch.images.flip(3))
    # The same pixels in the square, another share of them photo.
    narrow = replace(batch, image_sizes=torch.tensor([[64, 63]]))
    outputs = [cache(sam, one) for one in (batch, flipped, narrow)]
    assert len(entries(tmp_path)) == 3
    for one, output in zip((batch, flipped, narrow), outputs, strict=True):
        torch.testing.assert_close(output, encode_batch(sam, one), rtol=2e-3, atol=1e-2)
        assert torch.equal(cache(sam, one), output)
    assert cache.store.hits == 3
    # What the data workers hash is what is hashed here without them.
    hashed = batch_of(2)
    cache(sam, hashed)
    assert cache.store.hits == 4


def test_no_model_reads_anothers_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights, another number of frozen units, other numerics: a file each."""
    models = [
        vit(None),
        vit(None, seed=2),
        vit(1),
        vit(2),
        vit(None, heads=4),
    ]
    batch = batch_of(0)
    for number, sam in enumerate(models):
        cache = opened(tmp_path, sam)
        cache(sam, batch)
        assert (cache.store.hits, len(entries(tmp_path))) == (0, number + 1)
    # A single number is enough.
    changed = vit(None)
    with torch.no_grad():
        changed.image_encoder.units()[0].attn.qkv.bias[3] += 1e-3
    cache = opened(tmp_path, changed)
    cache(changed, batch)
    assert cache.store.hits == 0
    with monkeypatch.context() as patched:
        # A window shows in no tensor's shape.
        patched.setattr(type(changed.image_encoder), "numerics", lambda _: "other")
        cache = opened(tmp_path, changed)
        cache(changed, batch)
        assert cache.store.hits == 0
    with torch.autocast("cpu", torch.bfloat16):
        again = opened(tmp_path, models[0])
        again(models[0], batch)
    assert again.store.hits == 0


def test_weights_that_are_trained_do_not_count(tmp_path: Path) -> None:
    sam = vit(1)
    opened(tmp_path, sam)(sam, batch_of(0))
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.ones_like(parameter))
            else:
                assert "blocks.0" in name or "patch_embed" in name or "pos_embed" in name
    cache = opened(tmp_path, sam)
    cache(sam, batch_of(0))
    assert (cache.store.hits, cache.store.misses) == (1, 0)


def test_a_damaged_entry_is_encoded_again(tmp_path: Path) -> None:
    sam = vit(None)
    first = opened(tmp_path, sam)(sam, batch_of(0))
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    content[200] ^= 64
    path.write_bytes(content)
    cache = opened(tmp_path, sam)
    assert torch.equal(cache(sam, batch_of(0)), first)
    assert cache.store.damaged == 1
    assert torch.equal(cache(sam, batch_of(0)), first)
    assert cache.store.hits == 1


def test_without_a_disk_it_gives_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sam = vit(1)
    expected = opened(tmp_path / "good", sam)(sam, batch_of(0, 1))
    (tmp_path / "file").write_text("")
    cache = opened(tmp_path / "file" / "bad", sam)
    for _ in range(2):
        assert torch.equal(cache(sam, batch_of(0, 1)), expected)
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


def test_values_beyond_float16_are_clamped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sam = vit(1)
    with torch.no_grad():
        sam.image_encoder.units()[0].mlp.lin2.bias[0] = 1e6
    cache = opened(tmp_path, sam)
    with caplog.at_level(logging.WARNING, logger="sam_train"):
        outputs = [cache(sam, batch_of(0)) for _ in range(2)]
    assert torch.equal(outputs[0], outputs[1])
    assert outputs[0].isfinite().all()
    assert len(caplog.records) == 1


def test_frozen_units_drop_no_path_and_the_others_do() -> None:
    sam = vit(1, drop_path=0.9, depth=3, global_blocks=[1]).train()
    first, *others = sam.image_encoder.units()
    assert not first.training
    assert not first.attn.training
    assert all(unit.training for unit in others)
    batch, zeros = batch_of(0), torch.zeros(1, 3, 2)
    draws = torch.tensor([[[0.99, 0.99], [0.0, 0.0], [0.0, 0.0]]])
    # Draws of a frozen unit mean nothing, whatever they are.
    assert torch.equal(encode_batch(sam, batch, draws=draws), encode_batch(sam, batch, draws=zeros))
    dropped = zeros.clone()
    dropped[0, 2] = 0.99
    assert not torch.equal(
        encode_batch(sam, batch, draws=dropped), encode_batch(sam, batch, draws=zeros)
    )


def test_draws_reach_the_units_they_are_for(tmp_path: Path) -> None:
    sam = vit(1, drop_path=0.9, depth=3, global_blocks=[1]).train()
    batch = batch_of(0, 1)
    draws = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(3))
    expected = encode_batch(sam, batch, draws=draws)
    scale = float(expected.detach().abs().max())
    found = opened(tmp_path, sam)(sam, batch, draws=draws)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3 * scale)


class Whole(ImageEncoder):
    """An encoder that overrides `forward` alone."""

    def __init__(self, inner: ImageEncoder) -> None:
        super().__init__()
        self.inner = inner
        self.image_size, self.stride, self.channels = inner.image_size, inner.stride, inner.channels

    def forward(self, images: Tensor, *, draws: Tensor | None = None) -> Tensor:
        """As the inner one."""
        out: Tensor = self.inner(images, draws=draws)
        return out

    def units(self):  # type: ignore[no-untyped-def]
        """The inner one's."""
        return self.inner.units()

    def stem(self):  # type: ignore[no-untyped-def]
        """The inner one's."""
        return self.inner.stem()

    def numerics(self) -> str:
        """A name."""
        return "whole"


def test_an_encoder_that_does_not_split_is_kept_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    sam = tiny_sam.randomised()
    sam.image_encoder = Whole(sam.image_encoder)
    frozen(sam, 1)
    assert frozen_part(sam) is None
    frozen(sam, None)
    assert frozen_part(sam) == FrozenPart(units=2, whole=True)
    expected = encode_batch(sam, batch_of(1))
    torch.testing.assert_close(
        opened(tmp_path, sam)(sam, batch_of(1)), expected, rtol=2e-3, atol=1e-2
    )


def test_nothing_frozen_in_front_is_no_prefix() -> None:
    sam = tiny_sam.randomised()
    assert frozen_part(sam) is None
    # The second block alone, or a block behind a trained stem.
    sam.image_encoder.units()[1].requires_grad_(False)
    assert frozen_part(sam) is None
    sam.image_encoder.units()[0].requires_grad_(False)
    assert frozen_part(sam) is None
    for parameter in sam.image_encoder.stem():
        parameter.requires_grad_(False)
    assert frozen_part(sam) == FrozenPart(units=2, whole=False)
