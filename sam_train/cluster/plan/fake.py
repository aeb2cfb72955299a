"""A training step without weights, photos or a GPU: shapes and dtypes only, on fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sam_train.model import Sam, build_from_config
from sam_train.model.build import recompute_of
from sam_train.model.ops.backends import use_backend
from sam_train.settings.run import RunConfig
from sam_train.train.objectives import At
from sam_train.train.objectives.base import build_objective, loss_of_step, mask_weight
from sam_train.train.parallel.prepare import prepare
from sam_train.train.records import RoundLog
from sam_train.types import Batch


class StepModule(nn.Module):
    """A training step without a Trainer, at the end of training: no curriculum shortens it.

    It is the objective's own step, so `plan` counts what `fit` does.
    """

    def __init__(self, cfg: RunConfig, sam: Sam) -> None:
        super().__init__()
        self.cfg, self.sam = cfg, sam
        self.objective = build_objective(cfg)
        prepare(
            sam,
            cfg=cfg,
            recompute=recompute_of(cfg.model),
            compiled=False,
        )
        last = cfg.trainer.max_steps - 1
        self.at = At(seed=cfg.seed, step=last, progress=last / cfg.trainer.max_steps)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def encode(self, batch: Batch) -> Tensor:
        """Run the first half of the step: [B, C, h, w] image embeddings."""
        return self.objective.encode(self.sam, batch, self.at)

    def rounds_step(self, embeddings: Tensor, batch: Batch) -> Tensor:
        """Run the second half of the step and return its loss."""
        weight = mask_weight(batch, accumulate=self.cfg.trainer.accumulate, device=self.device)
        return loss_of_step(
            self.objective,
            self.sam,
            batch,
            self.at,
            embeddings=embeddings,
            weight=weight,
            log=RoundLog(),
        )


def fake_module(cfg: RunConfig, *, as_gpu: bool, low_blocks: bool = False) -> StepModule:
    """Build the step of `cfg` with fake parameters; call it inside `fake_tensors`.

    Args:
        as_gpu: choose attention as on a GPU, where `auto` takes the fused kernels.
        low_blocks: the encoder blocks' weights are bfloat16, as fsdp2 brings them.
    """
    with unset_fake_temporarily(), torch.device("meta"):
        module = StepModule(cfg, sam=build_from_config(cfg.model))
    if as_gpu and cfg.model.attention == "auto":
        use_backend(module.sam, "sdpa")
    in_blocks = {m for unit in module.sam.image_encoder.units() for m in unit.modules()}
    for owner in module.modules():
        low = low_blocks and owner in in_blocks
        for name, parameter in owner.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=torch.bfloat16 if low else parameter.dtype)
            fake = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            owner.register_parameter(name, fake)
        for name, buffer in owner.named_buffers(recurse=False):
            empty = torch.empty(buffer.shape, dtype=buffer.dtype)
            owner.register_buffer(name, empty, name not in owner._non_persistent_buffers_set)
    return module


def empty_batch(module: StepModule, *, images: int, masks: int) -> Batch:
    """Build a batch of full-size photos with `masks` each, on the module's device, all zeros.

    Args:
        module: decides S, R and the device.
        images: B.
        masks: per image.
    """
    device, sam, cfg = module.device, module.sam, module.cfg
    side = sam.grid_size if cfg.loss.resolution == "grid" else sam.image_size
    number = images * masks

    def make(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    sizes = torch.full((images, 2), sam.image_size, device=device)
    return Batch(
        images=make(
            images, sam.image_encoder.in_channels, sam.image_size, sam.image_size, dtype=torch.uint8
        ),
        image_sizes=sizes,
        original_sizes=sizes.clone(),
        masks=make(number, side, side, dtype=torch.uint8),
        image_index=torch.arange(images, device=device).repeat_interleave(masks),
        points=make(number, 2, dtype=torch.float32),
        boxes=make(number, 4, dtype=torch.float32),
        mask_ids=torch.arange(number, device=device),
        keys=[str(k) for k in range(images)],
        positions=list(range(images)),
    )


@contextmanager
def fake_tensors(*, as_gpu: bool) -> Iterator[None]:
    """Give tensors made inside shapes and dtypes, but no memory; kernels do nothing.

    Tensors claim to be on a CPU, because a CPU build of torch differentiates for no other device.

    Args:
        as_gpu: choose kernels and dtypes as on a GPU.
    """
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        if as_gpu:
            stack.enter_context(_GpuKernels())
        yield


_PRECISE = (F.layer_norm, torch.softmax, torch.Tensor.softmax, F.softmax)
"""The model's functions that autocast runs in float32 on a GPU (torch's "CUDA ops that autocast to
float32"), but not on a CPU."""


class _GpuKernels(TorchFunctionMode):
    """Stand-ins for operations that leave other tensors behind on a GPU than on a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the stand-in where there is one, else the function itself."""
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        if func in _PRECISE and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, scale: float
) -> Tensor:
    """Run flash attention for 16-bit numbers without a mask, else the memory-efficient one."""
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        q, k, v = q.to(low), k.to(low), v.to(low)
    width = q.shape[-1]
    if q.element_size() == 2 and attn_mask is None:
        # As torch does: this kernel takes widths that are multiples of 8.
        if width % 8:
            q, k, v = (F.pad(t, (0, -width % 8)) for t in (q, k, v))
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0]
        return out[..., :width]
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    answer: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, torch.is_grad_enabled(), scale=scale
    )[0]
    return answer
