"""Small parts that several modules of the model share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Projection(nn.Linear):
    """A linear layer that also gives its product without the bias."""

    def product(self, x: Tensor) -> Tensor:
        """Map the last axis of [..., in] to [..., out] without the bias."""
        return F.linear(x, self.weight)


class MLPBlock(nn.Module):
    """Two linear layers with an activation between them, over the last axis."""

    def __init__(self, dim: int, *, hidden: int, activation: Activation = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of [..., dim] to itself."""
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out


class StreamNorm(nn.LayerNorm):
    """LayerNorm of the residual stream, in the stream's dtype also where fsdp2 brings the weights
    as bfloat16."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of [..., dim]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, with the reference's epsilon.

    Maps are channels-last in most of this project, where it is an ordinary LayerNorm. With very
    few channels its kernels are slow, and `channels_first` is for those.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def channels_first(self, x: Tensor) -> Tensor:
        """Normalise the first axis of [C, ...], statistics in float32."""
        # By hand: torch's kernel is for a last axis, and channels are first here.
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = precise - precise.mean(0)
        normed = centred * (centred.square().mean(0) + self.eps).rsqrt()
        # One weight for each channel, which is the first axis.
        shape = (-1, *[1] * (x.ndim - 1))
        return (normed * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


class MLP(nn.Module):
    """Linear layers with ReLU between them: the decoder's hypernetworks and its IoU head."""

    def __init__(self, dim: int, *, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., out]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        last: Tensor = self.layers[-1](x)
        return last


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016), drawn per sample: a dropped branch adds nothing.

    A branch that stays is divided by its probability, so the expectation does not change.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """Drop the branch of some samples: [B, ...] to [B, ...].

        Args:
            x: the branch.
            draws: float [B], uniform in [0, 1): decide which samples keep it. Torch's own
                generator does where they are left out, but that one knows neither rank nor step.
        """
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        if draws is None:
            draws = torch.rand(x.shape[0], device=x.device)
        # A product, not a selection: its shape does not depend on the draws.
        return x * (draws < keep).to(x.dtype).view(-1, *[1] * (x.ndim - 1)) / keep

    def extra_repr(self) -> str:
        return f"probability={self.probability:.3f}"


def keep_in_graph(x: Tensor, unused: Iterable[nn.Parameter]) -> Tensor:
    """Add nothing to `x`, so that parameters this call had no use for still get a (zero) gradient.

    Which masks are asked for and whether a mask prompt exists changes from round to round. With a
    gradient for every parameter in every step, DDP needs no search for unused ones.
    """
    # Inference pays nothing for it.
    if not torch.is_grad_enabled():
        return x
    # One number of each is enough for autograd to give all of it a gradient.
    firsts = [p.flatten()[0] for p in unused if p.requires_grad]
    return x + 0.0 * torch.stack(firsts).sum() if firsts else x
