"""Automatic masks of one photo, beside segment-anything's own generator with the same weights.

    python benchmarks/generate.py [--models nano vit_b] [--points 16] [--layers 1] [--threads 1]

For each model both generators look at the same photo with the same settings, in turns, and their
masks are compared; a table of CPU seconds and ratios is printed. `nano` is the small trained model
that ships. The others have random weights, made so that about half of the masks pass the IoU
filter, as with trained ones; their masks are noise, the worst case for run lengths. Needs
segment-anything 1.0 (in the `test` extra).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import sam_train
from data_tools.scenes import close_up
from sam_train.export.segment_anything import constructor_arguments
from sam_train.generate import AutomaticMaskGenerator
from sam_train.model import ModelConfig, Sam, build_from_config
from sam_train.model.build import resolve
from sam_train.model.load import load_sam, recorded_model

ROOT = Path(__file__).resolve().parents[1]
NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
LOOSE = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}
"""Thresholds for a model as unsure as nano: about half of its masks pass the first, as with SAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One generator on one photo."""

    seconds: float
    masks: list[dict[str, Any]]


def model_named(name: str) -> tuple[Sam, ModelConfig]:
    """Build a model and its settings."""
    if name == "nano":
        cfg = recorded_model(NANO)
        assert cfg is not None
        return load_sam(NANO), cfg
    torch.manual_seed(0)
    cfg = ModelConfig(name=name)
    sam = build_from_config(cfg).eval()
    with torch.no_grad():
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            head: Any = mlp.layers[-1]
            head.weight.mul_(300)
            head.bias.mul_(300)
        last: Any = sam.mask_decoder.iou_prediction_head.layers[-1]
        last.bias.fill_(0.88)
    return sam, cfg


def reference_generator(sam: Sam, cfg: ModelConfig, **settings: Any) -> Any:
    """Build segment-anything's class around its own modules with the same weights."""
    # Its stand-ins for torchvision lie with the tests that compare the two.
    sys.path.insert(0, str(ROOT / "tests"))
    import segment_anything_reference  # noqa: PLC0415

    package = segment_anything_reference.load()
    sizes = constructor_arguments(resolve(cfg))
    activation = getattr(nn, sizes["activation"])
    modeling = package.modeling
    theirs = modeling.Sam(
        modeling.ImageEncoderViT(
            norm_layer=partial(nn.LayerNorm, eps=1e-6), **sizes["image_encoder"]
        ),
        modeling.PromptEncoder(activation=activation, **sizes["prompt_encoder"]),
        modeling.MaskDecoder(
            transformer=modeling.TwoWayTransformer(**sizes["transformer"]),
            activation=activation,
            **sizes["mask_decoder"],
        ),
    ).eval()
    theirs.load_state_dict(sam.state_dict(), strict=True)
    return package.SamAutomaticMaskGenerator(theirs, **settings)


def timed(generate: Callable[[Any], list[dict[str, Any]]], image: Any) -> Timed:
    """Measure CPU seconds of this process: other work on the machine hardly counts."""
    began = time.process_time()
    masks = generate(image)
    return Timed(seconds=time.process_time() - began, masks=masks)


def differing_pixels(ours: Timed, theirs: Timed) -> int:
    """Compare all masks, which must be as many and in the same order."""
    total = 0
    for got, want in zip(ours.masks, theirs.masks, strict=True):
        a, b = got["segmentation"]["counts"], want["segmentation"]["counts"]
        if a != b:
            bits = [np.repeat(np.arange(len(c)) % 2, c) for c in (a, b)]
            total += int((bits[0] != bits[1]).sum())
    return total


def measure(name: str, image: Any, arguments: argparse.Namespace) -> str:
    """Measure a row of the table."""
    sam, cfg = model_named(name)
    settings = {
        "points_per_side": arguments.points if name == "nano" else arguments.points_of_large,
        "crop_n_layers": arguments.layers if name == "nano" else 0,
        "crop_n_points_downscale_factor": 2,
        "output_mode": "uncompressed_rle",
        **(LOOSE if name == "nano" else {"stability_score_thresh": 0.5}),
    }
    generators = {
        "ours": AutomaticMaskGenerator(sam, **settings),
        "theirs": reference_generator(sam, cfg, **settings),
    }
    best: dict[str, Timed] = {}
    for _ in range(arguments.repeats):
        for which, generator in generators.items():
            once = timed(generator.generate, image)
            if which not in best or once.seconds < best[which].seconds:
                best[which] = once
    ours, theirs = best["ours"], best["theirs"]
    size = f"{image.shape[1]}x{image.shape[0]}"
    ratio = theirs.seconds / ours.seconds
    points = sum(
        4**layer * int(settings["points_per_side"] / 2**layer) ** 2
        for layer in range(settings["crop_n_layers"] + 1)
    )
    return (
        f"| {name}, {sam.image_size} px | {size} | {points} | {len(ours.masks)} | "
        f"{differing_pixels(ours, theirs)} | {theirs.seconds:.1f} | {ours.seconds:.1f} | "
        f"{ratio:.1f}x |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["nano", "vit_t", "vit_b"])
    parser.add_argument("--photo", type=Path, help="default: a drawn scene of 1800x1200")
    parser.add_argument("--points", type=int, default=16, help="along a side, for nano")
    parser.add_argument("--points-of-large", type=int, default=8, help="for the others")
    parser.add_argument("--layers", type=int, default=1, help="of crops, for nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.photo:
        image = np.asarray(Image.open(arguments.photo).convert("RGB"))
    else:
        image = close_up(0, 0, height=1200, width=1800, zoom=1.0).image
    print(f"{arguments.threads} thread(s), fastest of {arguments.repeats}, CPU seconds a photo\n")
    print(
        "| model | photo | points | masks | pixels that differ | segment-anything | ours | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        print(measure(name, image, arguments), flush=True)


if __name__ == "__main__":
    main()
