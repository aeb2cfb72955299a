"""The settings that decide a run's memory and speed, and may be changed to make it fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sam_train.data.feed.order import micro_batch
from sam_train.model.build import recompute_of
from sam_train.runtime.devices import LOW_PRECISIONS, parse_devices
from sam_train.settings.run import RunConfig

GPUS_OF_A_NODE = 8
"""The meaning of `trainer.devices=auto` where there is no GPU to count."""
_NAMES = {
    "turns": "trainer.accumulate",
    "recompute": "model.checkpoint_blocks",
    "precision": "trainer.precision",
    "strategy": "trainer.strategy",
    "deepspeed": "trainer.deepspeed",
    "offload": "trainer.offload",
    "masks": "data.masks_per_image",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The part of the settings that memory depends on."""

    images: int
    """Images of one micro-batch on one GPU."""
    masks: int
    """Maximum of masks per image."""
    turns: int
    """Micro-batches per update."""
    recompute: str
    precision: str
    strategy: str
    """ddp, fsdp2, deepspeed, or auto on one GPU."""
    deepspeed: str = "zero2"
    offload: bool = False

    @property
    def low(self) -> bool:
        """True with bfloat16 or float16 products, which take the same room and time."""
        return self.precision in LOW_PRECISIONS

    def words(self, other: Setting) -> list[str]:
        """Write the difference from `other` as command-line settings."""
        return [
            f"{written}={str(value).lower() if isinstance(value, bool) else value}"
            for name, written in _NAMES.items()
            if (value := getattr(self, name)) != getattr(other, name)
        ]

    def applied_to(self, cfg: RunConfig) -> RunConfig:
        """Return `cfg` with these settings."""
        trainer = replace(
            cfg.trainer,
            accumulate=self.turns,
            precision=self.precision,
            strategy=self.strategy,
            deepspeed=self.deepspeed,
            offload=self.offload,
            compile=False,
        )
        model = replace(cfg.model, checkpoint_blocks=self.recompute)
        data = replace(cfg.data, masks_per_image=self.masks)
        return replace(cfg, trainer=trainer, model=model, data=data)


def setting_of(cfg: RunConfig) -> Setting:
    """Read the setting of `cfg`.

    Raises:
        UserError: the batch cannot be divided evenly.
    """
    trainer = cfg.trainer
    ranks = trainer.num_nodes * devices_of(cfg)
    return Setting(
        images=micro_batch(cfg.data.batch_size, world_size=ranks, accumulate=trainer.accumulate),
        masks=cfg.data.masks_per_image,
        turns=trainer.accumulate,
        recompute=recompute_of(cfg.model),
        precision=trainer.precision,
        strategy="ddp" if trainer.strategy == "auto" else trainer.strategy,
        deepspeed=trainer.deepspeed,
        offload=trainer.offload,
    )


def devices_of(cfg: RunConfig) -> int:
    """Count the GPUs of one node.

    Raises:
        UserError: `trainer.devices` is not understood.
    """
    devices = parse_devices(cfg.trainer.devices)
    if isinstance(devices, str):
        return torch.cuda.device_count() or GPUS_OF_A_NODE
    return devices if isinstance(devices, int) else len(devices)
