"""What is done to a model before it trains, in the order in which it must be done.

freeze -> recompute activations -> compile -> split over the ranks. Recomputation belongs inside
what is compiled (the compiler then fuses it), and what is split must be the compiled block, whose
weights arrive before and leave after one compiled call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sam_train.model import Sam
from sam_train.model.encoders.vit import Block
from sam_train.train.optim import freeze

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def prepare(sam: Sam, *, frozen_blocks: int, recompute: str, compiled: bool) -> None:
    """Freeze, recompute, compile: what one process decides alone. Names stay as they are.

    Args:
        frozen_blocks: `optim.frozen_blocks`.
        recompute: `model.checkpoint_blocks`: none, selective or full.
        compiled: `trainer.compile`.
    """
    encoder = sam.image_encoder
    freeze(sam.named_parameters(), blocks=frozen_blocks, depth=len(encoder.blocks))
    for block in encoder.blocks:
        assert isinstance(block, Block)
        block.recompute = recompute
        if compiled:
            # In place: neither names nor hooks change. Blocks of a kind share one compilation.
            block.compile()


def split(sam: Sam, mesh: DeviceMesh, *, precision: str) -> None:
    """fsdp2: split the encoder's parameters over `mesh`, one group per block and one for the rest.

    With bf16-mixed or 16-mixed the blocks' weights are sent as bfloat16 or float16, to which
    autocast would round them anyway (of the norms', too); gradients are averaged in float32. The
    rest of the encoder is sent as it is: the sum of patches and positions is the residual stream,
    which stays float32.
    """
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    blocks = MixedPrecisionPolicy(
        param_dtype=low, reduce_dtype=torch.float32 if low else None, cast_forward_inputs=False
    )
    for block in sam.image_encoder.blocks:
        fully_shard(block, mesh=mesh, mp_policy=blocks)
    fully_shard(sam.image_encoder, mesh=mesh, mp_policy=MixedPrecisionPolicy())
