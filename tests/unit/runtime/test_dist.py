"""One gloo group per process, and what becomes of one that cannot be made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from sam_train.cluster.doctor import network
from sam_train.cluster.doctor.place import JobRank
from sam_train.errors import UserError
from sam_train.runtime import dist as ours
from sam_train.runtime.mishaps import one_line
from sam_train.settings.run import RunConfig

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp"
NO_NETWORK = (
    f"[enforce fail at {GLOO[1:]}/device.cc:84] ifa != nullptr. Unable to find address for: eth9"
)
GONE = f"{GLOO}/pair.cc:547] Connection closed by peer [127.0.0.1]:4012"
SILENT = f"{GLOO}/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"
UNEQUAL = f"[enforce fail at {GLOO[1:]}/pair.cc:452] op.preamble.length <= op.nbytes. 8 vs 4"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The gloo groups of two ranks whose gradients go over NCCL."""
    groups: list[Any] = []

    def make(*, backend: str) -> object:
        assert backend == "gloo"
        groups.append(object())
        return groups[-1]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=object()))
    monkeypatch.setattr(dist, "new_group", make)
    monkeypatch.setattr(ours, "_shared", (None, None))
    return groups


def fail(text: str) -> Callable[..., Any]:
    """What raises as torch does."""

    def raise_it(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    return raise_it


def test_all_of_a_process_share_one_group(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a connection to every rank."""
    for _ in range(2):
        ours.start()
    assert len(made) == 1
    # Another run in the same process: the group before is gone.
    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=object()))
    ours.start()
    assert len(made) == 2


def test_a_network_that_is_not_there_is_named(
    made: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dist, "new_group", fail(NO_NETWORK))
    with (
        pytest.raises(UserError, match=r"address for: eth9.*GLOO_SOCKET_IFNAME"),
        one_line(tmp_path),
    ):
        ours.start()


def test_a_rank_that_is_lost_meanwhile_is_not_the_networks_fault(
    made: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dist, "new_group", fail(GONE))
    with (
        pytest.raises(UserError, match=r"^another process of this run stopped: "),
        one_line(tmp_path),
    ):
        ours.start()


def test_the_doctor_tries_gloo_between_gpus(
    made: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Met:
        place = JobRank(rank=0, ranks=2, local_rank=0, local_ranks=1, node="a", address="a", port=1)
        store, seconds = None, 1.0

    monkeypatch.setattr(network, "uses_gpus", lambda _: True)
    monkeypatch.setattr(network, "devices", lambda _: [0])
    monkeypatch.setattr(network, "PrefixStore", lambda *_: None)
    monkeypatch.setattr("torch.cuda.set_device", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "new_group", fail(NO_NETWORK))
    met: Any = Met()
    with pytest.raises(UserError, match="GLOO_SOCKET_IFNAME"):
        network.all_reduce(RunConfig(run_dir=str(tmp_path)), met)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GONE, "^another process of this run stopped: its message says why"),
        (SILENT, "^another process of this run stopped or cannot be reached .*Timed out waiting"),
    ],
)
def test_a_lost_rank_is_one_line(made: list[Any], text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said), one_line(tmp_path):
        fail(text)()


@pytest.mark.parametrize("text", [UNEQUAL, NO_NETWORK, "DataLoader timed out after 9 seconds"])
def test_a_fault_of_the_program_keeps_its_traceback(
    made: list[Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), one_line(tmp_path):
        fail(text)()
