"""The cost of the decoder's rounds, beside segment-anything's own modules with the same weights.

    python benchmarks/decoder.py [--sizes 128 256] [--rounds 11] [--threads 1]

Each row is measured in a process of its own: seconds of CPU for one step (forward, loss and
backward of all rounds; fastest of some), and how far the process' memory rose above what it held
before. Prompts are given rather than sampled, so that both do the same work, and the outputs are
compared before anything is measured. Needs segment-anything 1.0 (in the `dev` extra).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_train.model import Sam, build_sam
from sam_train.prompts.config import Carry
from sam_train.prompts.rounds import carried_logits
from sam_train.runtime.allocator import keep_freed_memory
from sam_train.train.loss_config import LossConfig
from sam_train.train.losses import mask_losses
from sam_train.train.rounds_backward import backward_round_by_round
from sam_train.types import FOREGROUND, PAD, Prediction, Prompts

IMAGES = 2
CASES = {
    "ours, round by round": ("ours", "rounds"),
    "ours, one graph": ("ours", "graph"),
    "segment-anything, round by round": ("reference", "rounds"),
    "segment-anything, one graph": ("reference", "graph"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The same masks and clicks for whoever answers."""

    embeddings: Tensor
    """float32 [IMAGES, C, h, w], requires a gradient."""
    index: Tensor
    """int64 [M]."""
    coords: Tensor
    """float32 [M, rounds, 2], input frame; round r knows the first r + 1 clicks."""
    targets: Tensor
    """bool [M, g, g]."""


def reference_modules(ours: Sam) -> nn.Module:
    """Build segment-anything's prompt encoder and decoder with the weights of ours."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.ops"):
        sys.modules.setdefault(name, ModuleType(name))
    for name, attributes in {
        "torchvision.transforms.functional": ("resize", "to_pil_image"),
        "torchvision.ops.boxes": ("batched_nms", "box_area"),
    }.items():
        stub = ModuleType(name)
        for attribute in attributes:
            setattr(stub, attribute, None)
        sys.modules.setdefault(name, stub)
    from segment_anything import modeling  # noqa: PLC0415 - after the stubs

    decoder, dim = ours.mask_decoder.transformer, ours.mask_decoder.iou_token.embedding_dim
    grid, size = ours.prompt_encoder.grid, ours.image_size
    act = type(ours.mask_decoder.output_upscaling[2])
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(grid, grid),
        input_image_size=(size, size),
        mask_in_chans=16,
        activation=act,
    )
    mask_decoder = modeling.MaskDecoder(
        transformer_dim=dim,
        transformer=modeling.TwoWayTransformer(
            depth=len(decoder.layers),
            embedding_dim=dim,
            mlp_dim=decoder.layers[0].mlp.lin1.out_features,
            num_heads=decoder.final_attn_token_to_image.heads,
        ),
        iou_head_hidden_dim=dim,
        activation=act,
    )
    prompt_encoder.load_state_dict(ours.prompt_encoder.state_dict(), strict=True)
    mask_decoder.load_state_dict(ours.mask_decoder.state_dict(), strict=True)
    both = nn.Module()
    both.prompt_encoder, both.mask_decoder = prompt_encoder, mask_decoder
    return both


def decode_ours(sam: Sam, embeddings: Tensor, task: Task, prompts: Prompts) -> Prediction:
    """Decode all masks of all images at once."""
    first = prompts.mask_logits is None
    return sam.decode(embeddings, task.index, prompts, multimask=first, all_present=True)


def decode_reference(modules: Any, embeddings: Tensor, task: Task, prompts: Prompts) -> Prediction:
    """Decode image by image, as its API wants; it adds the PAD token itself."""
    logits, ious = [], []
    clicks = [k for k in range(prompts.coords.shape[1]) if k != 1]
    for image in range(IMAGES):
        own = task.index == image
        fed = None if prompts.mask_logits is None else prompts.mask_logits[own]
        sparse, dense = modules.prompt_encoder(
            points=(prompts.coords[own][:, clicks], prompts.labels[own][:, clicks]),
            boxes=None,
            masks=fed,
        )
        mask, iou = modules.mask_decoder(
            image_embeddings=embeddings[image : image + 1],
            image_pe=modules.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=fed is None,
        )
        logits.append(mask)
        ious.append(iou)
    return Prediction(mask_logits=torch.cat(logits), iou=torch.cat(ious))


def make_task(sam: Sam, *, rounds: int, masks: int) -> Task:
    """Draw random blobs and clicks on random embeddings."""
    generator = torch.Generator().manual_seed(0)
    grid = sam.prompt_encoder.grid
    channels = sam.mask_decoder.iou_token.embedding_dim
    coarse = torch.randn(masks, 1, 4, 4, generator=generator)
    blobs = F.interpolate(coarse, (sam.grid_size, sam.grid_size), mode="bicubic")[:, 0]
    return Task(
        embeddings=torch.randn(IMAGES, channels, grid, grid, generator=generator),
        index=torch.arange(masks) * IMAGES // masks,
        coords=torch.rand(masks, rounds, 2, generator=generator) * (sam.image_size - 1),
        targets=blobs > 0,
    )


def play(decode: Callable[..., Prediction], task: Task, embeddings: Tensor) -> Iterator[Tensor]:
    """Yield the loss of each round; a click is added and the mask fed back from round to round."""
    masks, rounds = task.coords.shape[:2]
    valid = torch.ones_like(task.targets)
    labels = torch.full((masks, rounds + 1), FOREGROUND)
    labels[:, 1] = PAD
    fed: Tensor | None = None
    for r in range(rounds):
        coords = torch.cat([task.coords[:, :1], task.coords[:, : r + 1]], dim=1)
        prompts = Prompts(coords=coords, labels=labels[:, : r + 2], mask_logits=fed)
        prediction = decode(embeddings, task, prompts)
        yield mask_losses(prediction, task.targets, valid, cfg=LossConfig()).total.mean()
        fed = carried_logits(
            prediction, targets=task.targets, valid=valid, carry=Carry.predicted_iou
        )


def resident() -> float:
    """Return the MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one case, in this process."""
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    sam = build_sam("vit_t", image_size=arguments.size)
    task = make_task(sam, rounds=arguments.rounds, masks=arguments.masks)
    who, how = CASES[arguments.case]
    modules: Any = reference_modules(sam) if who == "reference" else sam
    decode = partial(decode_reference if who == "reference" else decode_ours, modules)
    parts = (modules.prompt_encoder, modules.mask_decoder)
    parameters = [p for part in parts for p in part.parameters()]

    def step() -> Tensor:
        embeddings = task.embeddings.clone().requires_grad_()
        turn = partial(play, decode, task)
        if how == "rounds":
            loss = backward_round_by_round(turn, embeddings=embeddings, parameters=parameters)
        else:
            loss = torch.stack(list(turn(embeddings))).sum()
        loss.backward()
        assert embeddings.grad is not None
        return torch.stack([loss.detach(), embeddings.grad.norm()])

    before = resident()
    result = step()
    seconds = []
    for _ in range(arguments.repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loss, gradient = result.tolist()
    return {"seconds": min(seconds), "mib": peak - before, "loss": loss, "gradient": gradient}


def in_a_process(case: str, *, size: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Run `measure` where nothing was allocated before."""
    options = {name: getattr(arguments, name) for name in ("rounds", "masks", "threads", "repeats")}
    words = [f"--{name}={value}" for name, value in {**options, "size": size}.items()]
    done = subprocess.run(
        [sys.executable, __file__, f"--case={case}", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def report(arguments: argparse.Namespace) -> None:
    """Print the table, ratios first."""
    print(
        f"vit_t's decoder, {IMAGES} images, {arguments.masks} masks, {arguments.rounds} rounds, "
        f"float32, {arguments.threads} thread(s)\n"
    )
    print("| size | what | time | memory | CPU s a step | MiB |")
    print("|---|---|---|---|---|---|")
    for size in arguments.sizes:
        rows = {case: in_a_process(case, size=size, arguments=arguments) for case in CASES}
        first = next(iter(rows.values()))
        for case, row in rows.items():
            for name in ("loss", "gradient"):
                if abs(row[name] - first[name]) > 1e-3 * abs(first[name]):
                    raise SystemExit(f"{case} at {size}: {name} {row[name]}, not {first[name]}")
            ratios = f"{row['seconds'] / first['seconds']:.2f} | {row['mib'] / first['mib']:.2f}"
            print(f"| {size} | {case} | {ratios} | {row['seconds']:.2f} | {row['mib']:.0f} |")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="input sides")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--masks", type=int, default=28, help="over all images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps; the fastest counts")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments)))
    else:
        report(arguments)


if __name__ == "__main__":
    main()
