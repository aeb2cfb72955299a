"""The recipe: what is trained, on how much at a time, at which size and for how long, and why."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch

from sam_train.cluster.plan.advice import cheapest
from sam_train.cluster.plan.memory import GIB, Simulator
from sam_train.cluster.plan.settings import setting_of
from sam_train.errors import UserError
from sam_train.finetuning.choices import RECIPE, Choices
from sam_train.finetuning.look import Look
from sam_train.finetuning.machine import Machine
from sam_train.finetuning.pace import measure_pace
from sam_train.model import build_from_config
from sam_train.model.build import resolve
from sam_train.model.checkpoints.checks import vit_named
from sam_train.model.checkpoints.init import initialise
from sam_train.model.checkpoints.kinds import open_checkpoint
from sam_train.model.config import ModelConfig
from sam_train.model.load import recorded_model
from sam_train.settings.run import RunConfig

SMALL = 20e6
"""Parameters of an encoder that is trained whole even on a CPU."""
FEW_PHOTOS = 1000
"""Fewer photos than this would spoil a large encoder."""
CELLS = 3.5
"""Side of the middle object in cells of the loss grid, below which a larger input is worth it."""
_FACTORS = (1, 1.5, 2, 3, 4)
_MOST_PIXELS = 1024
_MOST_EPOCHS = 100
_FEWEST_STEPS = 50
_MEASUREMENTS = 8
"""Times that held-out photos are measured during training."""
_PATIENCE = 3
"""Measurements without a better one that end it: few photos vary, and early rounds are few."""
_VAL_MASKS = {"cpu": 600, "gpu": 4000}
"""Held-out masks that a measurement shall take, about."""
MINUTES = {"cpu": 5.0, "gpu": 30.0}
_FEW_ROUNDS = "[{until: 0.6, points: 1, mask_only: 0}, {until: 0.9, points: 3, mask_only: 0}]"
_GAPS_ON_CPU, _RESERVE_ON_CPU = 0.3, 0.8


def choose(choices: Choices, *, look: Look, held_out: int, machine: Machine) -> None:
    """Add the choices of a recipe, each with its reason, in an order in which each can build on
    those before it.

    Args:
        choices: with what the user typed, and the model (`choose_model`).
        look: at the photos that are trained on.
        held_out: photos to measure on.
        machine: that trains.

    Raises:
        UserError: settings that the user typed and that do not fit.
    """
    cfg = choices.config()
    encoder = encoder_size(cfg.model)
    small = encoder <= SMALL
    if RECIPE not in choices:
        name = "finetune_small" if small else "finetune"
        why = f"the encoder has {encoder / 1e6:.3g} M parameters"
        choices.add(f"+{RECIPE}={name}", f"{why}: conf/experiment/{name}.yaml")
        _input_size(choices, look, small=small)
        _tuned(choices, look, small=small, gpu=bool(machine.gpu))
        _arithmetic(choices, machine)
        _memory(choices, machine)
    _feeding(choices, look, machine)
    _measuring(choices, held_out=held_out, gpu=bool(machine.gpu))
    _steps(choices, look, machine)


def encoder_size(cfg: ModelConfig) -> int:
    """Count the parameters of the encoder that `cfg` describes, without memory for them."""
    with torch.device("meta"):
        sam = build_from_config(cfg)
    return sum(parameter.numel() for parameter in sam.image_encoder.parameters())


def choose_model(choices: Choices) -> None:
    """Take the model's sizes from the checkpoint, else its name by the shapes in it.

    Raises:
        UserError: `init_from` is not set, a file that is no checkpoint of a SAM or of an encoder,
            or settings that do not fit.
    """
    source = choices.config().init_from
    if source is None:
        raise UserError("init_from is not set: name the weights to start from, init_from=sam.pth")
    record = None if ":" in source else recorded_model(Path(source).expanduser())
    if record is None:
        name = vit_named(open_checkpoint(source).conversion.tensors)
        if name is not None:
            choices.add(f"model={name}", "by the shapes in the checkpoint")
        return
    choices.add(f"model={record.name}", "as the checkpoint records")
    named = asdict(ModelConfig(name=record.name))
    for name, value in asdict(record).items():
        # How it was trained is no part of the model, and has settings of its own here.
        if value != named[name] and name not in ("drop_path", "checkpoint_blocks", "attention"):
            choices.add(f"model.{name}={json.dumps(value)}", "as the checkpoint records")


def check_weights(cfg: RunConfig) -> None:
    """Fit the weights to the model without memory for it, before minutes go by.

    Raises:
        UserError: weights that `fit` would refuse.
    """
    with torch.device("meta"):
        sam = build_from_config(cfg.model)
    initialise(sam, str(cfg.init_from), cfg.init)


def _input_size(choices: Choices, look: Look, *, small: bool) -> None:
    """Choose a larger input where objects have few cells of the loss grid."""
    cfg = choices.config()
    arch = resolve(cfg.model)
    side, middle = arch.image_size, median(look.sides())
    photos = median(max(one.size) for one in look.seen)
    cells = arch.grid * 4 * middle

    def at(size: int) -> float:
        return cells * size / side

    sizes = [_whole(side * factor, arch.stride) for factor in _FACTORS]
    # Beyond the photo's own pixels nothing more is seen, and a large model's cost grows with the
    # fourth power of the side.
    limit = min(_MOST_PIXELS, max(side, _whole(photos, arch.stride)))
    allowed = [size for size in sizes if size <= limit] or [side]
    chosen = next((size for size in allowed if at(size) >= CELLS), allowed[-1])
    seen = f"the middle object is {at(chosen):.2g} cells of the loss grid wide"
    if chosen == side or "model.image_size" in choices:
        return
    choices.add(f"model.image_size={chosen}", f"{seen}, at {side} only {at(side):.2g}")
    limit_px = 20 * chosen / 1024
    choices.add(
        f"prompts.box_noise_limit={limit_px:g}", f"the paper's 20 pixels of 1024, at {chosen}"
    )


def _whole(size: float, stride: int) -> int:
    return max(stride, round(size / stride) * stride)


def _tuned(choices: Choices, look: Look, *, small: bool, gpu: bool) -> None:
    """Choose the part that is trained."""
    if small:
        choices.add("optim.tune=all", "a small model has to learn these photos as a whole")
        return
    if not gpu:
        choices.add("optim.tune=decoder", "without a GPU the encoder is too slow to train")
        choices.add("embeddings.cache=auto", "each photo is encoded once, and kept on the disk")
        choices.add("optim.lr=3e-4", "only parts that learn fast are trained")
        choices.add("loss.iou_weight=6", "a click takes the mask of the highest predicted IoU")
        choices.add(f"prompts.curriculum={_FEW_ROUNDS}", "few rounds are many steps; all 11 last")
        choices.add("data.masks_per_image=8", "the rounds are all that a step costs")
    elif look.usable < FEW_PHOTOS:
        why = f"{look.usable:,} photos would spoil a large encoder; adapters bend it a little"
        choices.add("optim.tune=lora", why)
        choices.add("optim.lr=1e-4", "only parts that learn fast are trained")
    else:
        choices.add("optim.tune=all", f"{look.usable:,} photos are enough for all of the model")


def _arithmetic(choices: Choices, machine: Machine) -> None:
    if machine.gpu:
        precision = "bf16-mixed" if machine.bfloat16 else "16-mixed"
        choices.add(f"trainer.precision={precision}", f"half the memory and time on {machine.gpu}")
        choices.add("trainer.accelerator=gpu", machine.gpu)
    else:
        choices.add("trainer.accelerator=cpu", "there is no GPU")


def _memory(choices: Choices, machine: Machine) -> None:
    """Let `plan` count the memory, and take its cheapest way where the recipe does not fit."""
    cfg = _for_plan(choices.config(), machine)
    setting, simulator = setting_of(cfg), Simulator(cfg=cfg, ranks=1, as_gpu=bool(machine.gpu))
    needed = simulator.memory(setting).needed(cfg.plan)
    size = f"data.batch_size={cfg.data.batch_size}"
    if needed <= machine.room:
        masks = f"with at most {setting.masks} masks each"
        choices.add(size, f"images a step, {masks}: plan counts {needed / GIB:.2g} GiB")
        return
    way = cheapest(cfg, setting, simulator, room=machine.room)
    if way is None:
        raise UserError(
            f"plan counts {needed / GIB:.3g} GiB for a step and {machine.room / GIB:.3g} are free: "
            "take a smaller model or model.image_size"
        )
    why = f"plan counts {needed / GIB:.3g} GiB without, {way.needed / GIB:.3g} with it"
    for word in way.setting.words(setting):
        choices.add(word, why)


def _for_plan(cfg: RunConfig, machine: Machine) -> RunConfig:
    plan = cfg.plan
    if not machine.gpu:
        plan = replace(plan, gaps=_GAPS_ON_CPU, reserve_gib=_RESERVE_ON_CPU)
    trainer = replace(cfg.trainer, devices="1", num_nodes=1)
    return replace(cfg, plan=plan, trainer=trainer)


def _feeding(choices: Choices, look: Look, machine: Machine) -> None:
    """Choose how photos are read: from memory where they fit, else by workers."""
    cfg = choices.config()
    side = resolve(cfg.model).image_size
    size = 3 * side**2 * look.photos
    if size < machine.ram / 8 and not cfg.data.scale_jitter:
        choices.add("data.cache=true", f"all photos take {max(size / GIB, 0.01):.2g} GiB of memory")
        choices.add("data.workers=0", "and are then read once")
    elif machine.gpu:
        workers = max(1, min(8, machine.cores - 1))
        choices.add(f"data.workers={workers}", f"of {machine.cores} CPU cores, to feed the GPU")


def _measuring(choices: Choices, *, held_out: int, gpu: bool) -> None:
    """Bound the masks that are measured, or measuring would take longer than training."""
    masks = max(1, _VAL_MASKS["gpu" if gpu else "cpu"] // max(1, held_out))
    choices.add(f"data.val_masks_per_image={masks}", f"at most {masks * held_out:,} masks measured")


def _steps(choices: Choices, look: Look, machine: Machine) -> None:
    """Choose the number of steps by the time that one takes."""
    cfg = choices.config()
    kind = "gpu" if machine.gpu else "cpu"
    minutes = cfg.finetune.minutes or MINUTES[kind]
    if "trainer.max_steps" not in choices:
        pace = measure_pace(cfg)
        most = max(_FEWEST_STEPS, _MOST_EPOCHS * look.usable // cfg.data.batch_size)
        # Half the time at least for steps, however long it takes to encode each photo once.
        left = max(minutes * 30, minutes * 60 - pace.first * look.usable)
        steps = int(min(most, max(_FEWEST_STEPS, left / pace.mean)))
        epochs = steps * cfg.data.batch_size / max(1, look.usable)
        choices.add(
            f"trainer.max_steps={steps}",
            f"{epochs:.3g} passes, {steps * pace.mean / 60:.2g} minutes at "
            f"{pace.mean:.2g} seconds a step",
        )
    steps = choices.config().trainer.max_steps
    # Rounded up: the last measurement is that of the end.
    every = -(-steps // _MEASUREMENTS)
    choices.add(f"callbacks.validation.every={every}", f"{_MEASUREMENTS} times in the run")
    choices.add("checkpoint.keep_best=1", "the best weights are measured and handed on")
    if choices.config().callbacks.validation.every:
        why = f"training ends after {_PATIENCE} measurements without a better one"
        choices.add(f"checkpoint.patience={_PATIENCE}", why)
    choices.add("callbacks.validation.clicks=[1,3]", "during training")
    choices.add("callbacks.validation.images=24", "during training")
