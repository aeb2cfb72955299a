"""A count of FLOPs, traffic and bytes of a piece of a training step, on real or fake tensors.

A ledger stands between torch's dispatcher and its kernels and sees every operation of forward,
backward and recomputation. On fake tensors nothing is computed and nothing allocated, so ViT-H is
counted on a laptop in seconds.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Work:
    """An operation, as far as its fastest time depends on it."""

    flops: int
    """A multiplication and an addition are two."""
    traffic: int
    """Bytes of the tensors that it reads and writes, each once."""
    low: bool
    """True where it multiplies 16-bit numbers."""


@dataclass(slots=True)
class Phase:
    """A stretch of the step."""

    peak: int = 0
    """Maximum of the bytes alive at a time, of those made since the ledger began."""
    at_end: int = 0
    """Bytes alive at its end."""
    flops: Counter[str] = field(default_factory=Counter)
    """FLOPs by module; "" has those outside of any forward: backward pass, losses, clicks."""
    work: Counter[Work] = field(default_factory=Counter)
    """The number of times that each kind of operation ran."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts of the operations that run while it is entered.

    Storages that exist before are not counted: `known` names them. Memory that a kernel takes and
    gives back within one operation is not seen either.

    Args:
        known: tensors that live before the first phase.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self._known: dict[int, Any] = {}
        self._phase = Phase()
        self._modules: list[str] = []
        for tensor in known:
            self._meet(tensor, size=0)

    @contextmanager
    def phase(self) -> Iterator[Phase]:
        """Begin a stretch whose peak, FLOPs and work are counted by themselves."""
        # The peak starts from the bytes alive, which count into this phase as well.
        outer, self._phase = self._phase, Phase(peak=self.live)
        own = self._phase
        try:
            yield own
        finally:
            own.at_end = self.live
            self._phase = outer

    @contextmanager
    def attribute(self, modules: dict[str, list[nn.Module]]) -> Iterator[None]:
        """Count the forward passes of `modules` under their keys; the innermost module's counts."""
        handles = []
        for name, members in modules.items():
            for module in members:
                handles.append(module.register_forward_pre_hook(self._enter_as(name)))
                # A recomputation may stop early, by an exception out of the module.
                handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter_as(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._modules.append(name)

        return enter

    def _leave(self, *_: Any) -> None:
        self._modules.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        # Operations such as prim.device ask a tensor for a property; they touch no memory.
        if func.namespace == "prim":
            return out
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        for tensor in made:
            self._meet(tensor, size=None)
        if not func.is_view:
            self._count(func, args, kwargs, out, made)
        return out

    def _count(
        self, func: Any, args: Any, kwargs: dict[str, Any], out: Any, made: list[Tensor]
    ) -> None:
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        traffic = sum(_size(t) for t in read) + sum(_size(t) for t in made)
        flops = flops_of(func, args, kwargs, out)
        low = flops > 0 and read[0].element_size() == 2
        self._phase.work[Work(flops, traffic, low)] += 1
        if flops:
            self._phase.flops[self._modules[-1] if self._modules else ""] += flops

    def _meet(self, tensor: Tensor, *, size: int | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        held = storage.nbytes() if size is None else size
        # The weak reference must be kept, or it dies before its storage does.
        self._known[key] = weakref.ref(storage, self._farewell(key, held))
        self.live += held
        self._phase.peak = max(self._phase.peak, self.live)

    def _farewell(self, key: int, held: int) -> Callable[[Any], None]:
        def gone(_: Any) -> None:
            self.live -= held
            del self._known[key]

        return gone


def _size(tensor: Tensor) -> int:
    # An expanded tensor has more elements than its storage.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def flops_of(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    """Count FLOPs of matrix products, convolutions and attention, and nothing else's."""
    packet = func.overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(t.shape for t in args[:3])))  # type: ignore[no-untyped-call]
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        shapes = [t.shape for t in args[:4]]
        return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))
