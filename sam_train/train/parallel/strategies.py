"""The division of a step's work among processes: ddp, fsdp2 or deepspeed.

All three take the same local gradients and leave their mean over the ranks, so they differ in
memory and in what they send, not in what is learnt:

    ddp        every rank holds everything.
    fsdp2      the encoder's weights, gradients and moments are split over the ranks, block by
               block; prompt encoder and decoder, under 1 % of ViT-H, are whole on every rank.
    deepspeed  ZeRO 1 splits the moments, 2 the gradients too, 3 the weights too (there, too, the
               decoder is whole).

Decoder and prompt encoder are whole because their backward runs round by round inside one
autograd node (`rounds_backward`). It needs their weights from the first round's forward to the
last one's backward, so split weights would be gathered once per round.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sam_train.errors import UserError
from sam_train.train.config import deepspeed_config
from sam_train.train.parallel.zero import ZeroStrategy


class Fsdp2Strategy(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard`, with one mesh over all ranks.

    `SamModule.configure_model` does the splitting (`prepare.split`).
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Set up as Lightning does, with the number of ranks, which is known only here."""
        # The encoder's output is one; nothing changes it in place.
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Step as Lightning does, with the gradients of unsplit parameters averaged, too."""

        def averaged() -> Any:
            loss = closure()
            assert self.model is not None
            # Inside the closure: clipping comes right after it, and must see the averaged ones.
            average_whole_gradients(self.model)
            return loss

        return super().optimizer_step(optimizer, averaged, model, **kwargs)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Have Lightning hand the optimizer's state to `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the model's whole tensors on the first rank; a collective."""
        return self.whole_weights(everywhere=False)

    splits_weights = True
    """True: a forward pass needs all ranks at once."""

    def whole_weights(self, *, everywhere: bool) -> dict[str, Tensor]:
        """Gather the model's whole tensors on every rank, or in the first one's CPU memory."""
        assert self.model is not None
        whole = {}
        for name, value in self.model.state_dict().items():
            # On every rank, also those that keep nothing: it is a collective.
            tensor = whole_tensor(value)
            if everywhere or self.is_global_zero:
                # One at a time: a card that holds its part only has no room for all of them.
                whole[name] = tensor if everywhere else tensor.cpu()
        return whole

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the state as torch's optimizer has it, on the first rank; a collective."""
        # Lightning's wrapper or torch's own; both number the parameters alike.
        state = getattr(optimizer, "_optimizer", optimizer).state_dict()
        whole = {}
        for number, moments in state["state"].items():
            tensors = {key: whole_tensor(value).cpu() for key, value in moments.items()}
            if self.is_global_zero:
                whole[number] = tensors
        return state | {"state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read one file for all ranks, each of which takes its part of every tensor."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's part of whole tensors."""
        assert self.model is not None
        own, stored = self.model.state_dict(), checkpoint["state_dict"]
        if strict and own.keys() != stored.keys():
            raise RuntimeError(f"other tensors: {sorted(own.keys() ^ stored.keys())}")
        for name, place in own.items():
            if name in stored:
                place.copy_(part_for(place, stored[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's part of whole tensors."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                number: {
                    key: part_for(parameters[number], value)
                    # Step counters are scalars and whole everywhere; moments have the parameter's
                    # shape.
                    if torch.is_tensor(value) and value.shape == parameters[number].shape
                    else value
                    for key, value in moments.items()
                }
                for number, moments in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": parts})


def whole_tensor(value: Any) -> Any:
    """Put a split tensor together and return anything else as it is; a collective."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_for(place: Tensor, whole: Tensor) -> Tensor:
    """Split `whole` as `place` is. Every rank holds all of it, so nothing is sent."""
    if not isinstance(place, DTensor):
        return whole.to(place.device, place.dtype)
    moved = whole.to(place.device, place.dtype)
    # src_data_rank=None: each rank cuts its part from its own copy, without a broadcast.
    return distribute_tensor(moved, place.device_mesh, place.placements, src_data_rank=None)


def average_whole_gradients(model: nn.Module) -> None:
    """Average the gradients of unsplit parameters over all ranks, in place."""
    gradients = [
        p.grad for p in model.parameters() if p.grad is not None and not isinstance(p, DTensor)
    ]
    if not gradients:
        return
    # One message for hundreds of small gradients.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale all gradients so that their norm is at most `limit`, and return the norm before.

    It is the same on every rank, split gradients or not (torch's own takes no mixture of both).
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    split = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    # The whole ones are equal on all ranks by now, so their norm is not summed over ranks.
    norm = torch.nn.utils.get_total_norm(whole)
    if split:
        square = torch.nn.utils.get_total_norm(split).square()
        dist.all_reduce(square)
        norm = (square + norm.square()).sqrt()
    if math.isfinite(limit):
        # As torch.nn.utils.clip_grad_norm_.
        torch._foreach_mul_(split + whole, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def build_strategy(name: str, *, deepspeed: str, offload: bool, clip: float) -> Strategy | str:
    """Build the object that Lightning's Trainer takes as `strategy`.

    Args:
        name: one of STRATEGIES.
        deepspeed, offload: `trainer.deepspeed` and `trainer.offload`.
        clip: largest gradient norm, 0 for none; DeepSpeed clips by itself.

    Raises:
        UserError: DeepSpeed is not installed, or its settings cannot be read.
    """
    if name == "fsdp2":
        return Fsdp2Strategy()
    if name == "deepspeed":
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError(
                "trainer.strategy=deepspeed needs DeepSpeed: pip install 'sam_train[deepspeed]'"
            )
        return ZeroStrategy(deepspeed_config(deepspeed, offload=offload, clip=clip))
    return name
