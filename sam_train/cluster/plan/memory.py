"""Memory of one GPU, by part."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sam_train.cluster.plan.config import PlanConfig
from sam_train.cluster.plan.costs import (
    EncoderCost,
    Gradients,
    RoundsCost,
    encoder_cost,
    rounds_cost,
)
from sam_train.cluster.plan.fake import empty_batch, fake_module, fake_tensors
from sam_train.cluster.plan.settings import Setting
from sam_train.cluster.plan.states import States, states_of
from sam_train.settings.run import RunConfig

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that tensors take at the moment when they take most."""

    moment: str
    """The moment in words."""
    parts: dict[str, int]
    host: int
    """Bytes of CPU memory that DeepSpeed offloads to."""

    @property
    def tensors(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    def needed(self, cfg: PlanConfig) -> int:
        """Add the allocator's gaps, and the reserve for what no tensor holds."""
        return round(self.tensors * (1 + cfg.gaps) + cfg.reserve_gib * GIB)


@dataclass(kw_only=True)
class Simulator:
    """Runs each piece of a step once on fake tensors, however many settings ask for it."""

    cfg: RunConfig
    ranks: int
    as_gpu: bool = True
    """Kernels and dtypes of a GPU; false: of this CPU, to compare with what is measured there."""
    _encoders: dict[tuple[int, str, str, Gradients, bool], EncoderCost] = field(
        default_factory=dict
    )
    _rounds: dict[tuple[int, int, str], RoundsCost] = field(default_factory=dict)
    _states: dict[tuple[str, str, bool, str], States] = field(default_factory=dict)
    _batches: dict[tuple[int, int], int] = field(default_factory=dict)

    def encoder(self, setting: Setting, states: States) -> EncoderCost:
        """Count the encoder's cost for one micro-batch's images."""
        gradients = _gradients(setting, states)
        key = (
            *(setting.images, setting.recompute, setting.precision),
            *(gradients, states.low_blocks),
        )
        if key not in self._encoders:
            with fake_tensors(as_gpu=self.as_gpu):
                module = fake_module(
                    setting.applied_to(self.cfg), low_blocks=states.low_blocks, as_gpu=self.as_gpu
                )
                batch = empty_batch(module, images=setting.images, masks=1)
                self._encoders[key] = encoder_cost(
                    module, batch, recompute=setting.recompute, gradients=gradients
                )
        return self._encoders[key]

    def share_rounds(self, other: Simulator) -> None:
        """Share the counts of the decoder with `other`, whose model differs in the encoder only."""
        self._rounds = other._rounds

    def rounds(self, setting: Setting) -> RoundsCost:
        """Count the rounds' cost for one micro-batch's masks."""
        key = (setting.images, setting.masks, setting.precision)
        if key not in self._rounds:
            with fake_tensors(as_gpu=self.as_gpu):
                module = fake_module(setting.applied_to(self.cfg), as_gpu=self.as_gpu)
                batch = empty_batch(module, images=setting.images, masks=setting.masks)
                self._rounds[key] = rounds_cost(module, batch)
        return self._rounds[key]

    def batch_bytes(self, setting: Setting) -> int:
        """Count the bytes of one micro-batch's photos and masks."""
        key = (setting.images, setting.masks)
        if key not in self._batches:
            with fake_tensors(as_gpu=self.as_gpu):
                module = fake_module(setting.applied_to(self.cfg), as_gpu=self.as_gpu)
                batch = empty_batch(module, images=setting.images, masks=setting.masks)
                tensors = (getattr(batch, name) for name in batch.__slots__)
                self._batches[key] = sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return self._batches[key]

    def states(self, setting: Setting) -> States:
        """Count the bytes of one rank between steps."""
        key = (setting.strategy, setting.deepspeed, setting.offload, setting.precision)
        if key not in self._states:
            self._states[key] = states_of(setting.applied_to(self.cfg), ranks=self.ranks)
        return self._states[key]

    def least(self, setting: Setting) -> int:
        """Count the bytes of one GPU that `setting` takes without any activations."""
        states = self.states(setting)
        return states.weights + states.moments + states.buffers + states.gradients

    def memory(self, setting: Setting) -> Memory:
        """Find the moment when one GPU holds most."""
        every = self.moments(setting)
        moment = max(every, key=lambda name: sum(every[name].values()))
        return Memory(moment=moment, parts=every[moment], host=self.states(setting).host)

    def moments(self, setting: Setting) -> dict[str, dict[str, int]]:
        """Count the bytes of one GPU by part, for each moment that may be the fullest."""
        states = self.states(setting)
        encoder, rounds = self.encoder(setting, states), self.rounds(setting)
        held = {
            "weights": states.weights,
            "optimizer": states.moments,
            "sent and received": states.buffers,
            # Lightning drops the last update's gradients only when the rounds are over.
            "gradients": states.gradients,
            "batch": self.batch_bytes(setting),
        }
        later = 0 if _gradients(setting, states) == Gradients.made else states.gradients
        moments = {
            "while the photos are encoded": {"encoder's activations": encoder.forward_peak},
            "in the last round of the decoder": {
                "encoder's activations": encoder.saved,
                "decoder's round": rounds.peak,
            },
            "in the encoder's backward pass": {
                "gradients": rounds.at_end + later,
                "encoder's activations": encoder.backward_peak,
            },
        }
        # A part of the same name replaces the held one: in backward, "gradients" are counted anew.
        return {moment: held | parts for moment, parts in moments.items()}


def _gradients(setting: Setting, states: States) -> Gradients:
    if states.sends_gradients:
        return Gradients.sent
    return Gradients.added if setting.turns > 1 else Gradients.made
