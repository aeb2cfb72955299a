"""The steps between a model and its training, in the order in which they must be taken.

freeze -> recompute activations -> compile -> split over the ranks. Recomputation belongs inside
what is compiled, because the compiler then fuses it. The compiled block is what must be split: its
weights arrive before and leave after one compiled call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sam_train.model import Sam
from sam_train.model.adapters import tune
from sam_train.model.frozen_part import keep_frozen

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from sam_train.settings.run import RunConfig


def tune_as(sam: Sam, cfg: RunConfig) -> None:
    """Choose what is trained, as `optim` and `lora` say.

    Raises:
        UserError: as `adapters.tune`.
    """
    tune(
        sam,
        cfg.optim.tune,
        frozen_blocks=cfg.optim.frozen_blocks,
        last_blocks=cfg.optim.last_blocks,
        lora=cfg.lora,
    )


def prepare(sam: Sam, *, cfg: RunConfig, recompute: str, compiled: bool) -> None:
    """Freeze, recompute, compile: the steps that one process takes alone.

    The model's own names stay as they are; adapters add theirs.

    Args:
        cfg: `optim` and `lora` of it.
        recompute: `model.checkpoint_blocks`: none, selective or full.
        compiled: `trainer.compile`.
    """
    tune_as(sam, cfg)
    keep_frozen(sam)
    for unit in sam.image_encoder.units():
        unit.recompute = recompute
        if compiled:
            # In place: neither names nor hooks change. Units of a kind share one compilation.
            unit.compile()


def split(sam: Sam, mesh: DeviceMesh, *, precision: str) -> None:
    """Split the encoder's parameters over `mesh` (fsdp2), one group per unit and one for the rest.

    With bf16-mixed or 16-mixed the units' weights are sent as bfloat16 or float16, to which
    autocast would round them anyway (of the norms', too); gradients are averaged in float32. The
    rest of the encoder is sent as it is: the sum of patches and positions is the residual stream,
    which stays float32.
    """
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    units = MixedPrecisionPolicy(
        # Inputs are cast by autocast alone; cast again here they would leave the float32 residual
        # stream.
        param_dtype=low,
        reduce_dtype=torch.float32 if low else None,
        cast_forward_inputs=False,
    )
    for unit in sam.image_encoder.units():
        fully_shard(unit, mesh=mesh, mp_policy=units)
    # Last: it takes what no unit has taken.
    fully_shard(sam.image_encoder, mesh=mesh, mp_policy=MixedPrecisionPolicy())
