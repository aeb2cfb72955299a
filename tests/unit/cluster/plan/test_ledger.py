"""The books of one small computation, by hand."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sam_train.cluster.plan.ledger import Ledger, Work

KIB = 1024


def test_bytes_live_and_at_most() -> None:
    x = torch.zeros(256)  # 1 KiB
    with Ledger([x]) as ledger:
        with ledger.phase() as first:
            y = x + 1
            z = y.view(16, 16) * 2
            del y
        with ledger.phase() as second:
            w = torch.cat([z, z])
            del z
        del w
    assert (first.peak, first.at_end) == (2 * KIB, KIB)
    assert (second.peak, second.at_end) == (3 * KIB, 2 * KIB)
    assert ledger.live == 0


def test_what_was_there_before_counts_nothing() -> None:
    x = torch.zeros(256)
    with Ledger([x]) as ledger, ledger.phase() as phase:
        x.view(16, 16).add_(1)
    assert phase.peak == 0


def test_flops_by_module_and_what_is_recomputed() -> None:
    layers = nn.ModuleList([nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)])
    first, second = layers
    x = torch.ones(3, 4, requires_grad=True)
    ledger = Ledger([x, *layers.parameters()])
    with ledger, ledger.attribute({"first": [first], "second": [second]}):
        with ledger.phase() as forward:
            hidden = checkpoint(first, x, use_reentrant=False).relu()
            loss = second(hidden).sum()
        with ledger.phase() as backward:
            loss.backward()
    products = 2 * 3 * 4 * 8, 2 * 3 * 8 * 2
    assert dict(forward.flops) == {"first": products[0], "second": products[1]}
    assert backward.flops[""] == 2 * sum(products)
    # The checkpoint kept nothing of it, but only its weight and input are needed.
    assert backward.flops["first"] in (0, products[0])


def test_traffic_reads_an_expanded_tensor_once() -> None:
    x = torch.zeros(64)
    with Ledger([x]) as ledger, ledger.phase() as phase:
        x.expand(8, 64) + 1
    assert phase.work == {Work(flops=0, traffic=64 * 4 + 8 * 64 * 4, low=False): 1}
