"""What a node is asked, on this one."""

from __future__ import annotations

import resource
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from sam_train.cluster.doctor import node
from sam_train.cluster.doctor.findings import FAIL, OK, Check, Finding, ask_all
from sam_train.cluster.doctor.place import JobRank
from sam_train.cluster.doctor.run import compare
from sam_train.errors import UserError
from sam_train.settings.run import RunConfig

PLACE = JobRank(
    rank=0, ranks=2, local_rank=0, local_ranks=2, node="n1", address="127.0.0.1", port=29500
)


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """vit_t, four images a step."""
    cfg = RunConfig(run_dir=str(tmp_path / "run"))
    cfg.model.name = "vit_t"
    cfg.data.batch_size = 4
    cfg.data.masks_per_image = 8
    cfg.trainer.accelerator = "cpu"
    return cfg


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """A shard, as far as its header says."""
    (tmp_path / "sa_1.jpg").write_bytes(b"photo")
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as shard:
        shard.add(tmp_path / "sa_1.jpg", "sa_1.jpg")
    return tmp_path / "sa_000000.tar"


@pytest.fixture
def few_files() -> Iterator[None]:
    """A limit as containers have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_shards_that_can_be_read(cfg: RunConfig, tar: Path) -> None:
    cfg.data.train = [str(tar)]
    result = node.shards(cfg, first=0)
    assert result.status == OK
    assert result.found.startswith("1 of 1 tried, 10.2 kB in all (mark ")


def test_a_node_with_other_shards_is_wrong(cfg: RunConfig, tar: Path, tmp_path: Path) -> None:
    """Copies elsewhere are the same; one that was cut, or lacks one, is not."""
    content, rows = tar.read_bytes(), []
    for name, sizes in {"n1": [1, 2], "n2": [1, 1], "n3": [1, 2], "n4": [1]}.items():
        folder = tmp_path / name
        folder.mkdir()
        for number, size in enumerate(sizes):
            (folder / f"sa_{number}.tar").write_bytes(content * size)
        cfg.data.train = [str(folder)]
        rows += ask_all(
            [Check("shards", partial(node.shards, cfg, first=0), "")], node=name, seconds=60
        )
    judged = compare(rows)
    assert [f.node for f in judged if f.status == FAIL] == ["n2", "n4"]
    assert "stage_in" in judged[1].remedy


def test_shards_that_cannot(cfg: RunConfig, tar: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.tar").write_bytes(b"\xff\xd8" * 2000)
    cfg.data.train = [str(tar), str(tmp_path / "photo.tar")]
    result = node.shards(cfg, first=1)
    assert result.status == FAIL
    assert result.found == "1 of 2 tried cannot be read, the first: photo.tar is no tar"
    cfg.data.train = [str(tmp_path / "sa_000009.tar")]
    with pytest.raises(UserError, match="does not exist"):
        node.shards(cfg, first=0)


def test_data_sets_of_other_formats_are_listed(cfg: RunConfig, tar: Path, tmp_path: Path) -> None:
    for part, pixels in (("images", 9), ("masks", 1)):
        (tmp_path / part).mkdir()
        Image.new("L", (8, 8), pixels).save(tmp_path / part / "a.png")
    cfg.data.train = f"masks:{tmp_path}"
    result = node.shards(cfg, first=0)
    assert (result.status, result.found) == (OK, "no shards, but masks with 1 photos")
    cfg.data.val = [f"mine=masks:{tmp_path}", str(tar)]
    assert ", masks with 1 photos, mine with 1 photos" in node.shards(cfg, first=0).found
    cfg.data.mode = "stream"
    with pytest.raises(UserError, match=r"data\.mode=indexed"):
        node.shards(cfg, first=0)


def test_many_nodes_try_different_shards() -> None:
    paths = [str(k) for k in range(1000)]
    tried = [set(node.spread(paths, count=64, first=number)) for number in range(16)]
    assert all(len(each) == 64 for each in tried)
    assert len(set.union(*tried)) > 990
    assert node.spread(paths[:3], count=64, first=2) == paths[:3]


def test_settings_that_do_not_go_with_so_many_processes(cfg: RunConfig, tar: Path) -> None:
    cfg.data.train = [str(tar)]
    assert node.settings(cfg, PLACE).found.startswith("2 processes x 1 turns x 2 images (mark ")
    cfg.trainer.accumulate = 4
    with pytest.raises(UserError, match="not divisible by 2 ranks"):
        node.settings(cfg, PLACE)


def test_no_room_for_checkpoints(cfg: RunConfig, tmp_path: Path) -> None:
    assert node.run_dir(cfg, PLACE).status == OK
    cfg.checkpoint.keep_last = 1_000_000_000
    assert node.run_dir(cfg, PLACE).status == FAIL
    assert list((tmp_path / "run").iterdir()) == []


def test_limits_of_the_machine(cfg: RunConfig, few_files: None) -> None:
    cfg.data.workers = 0
    assert node.open_files(cfg, PLACE).status == OK
    assert node.shared_memory(cfg, PLACE).status == OK
    cfg.data.workers = 4
    assert node.open_files(cfg, PLACE).found == "limit 300, needs 580"
    assert node.open_files(cfg, PLACE).status == FAIL
    cfg.data.workers = 10_000_000
    assert node.shared_memory(cfg, PLACE).status == FAIL


@pytest.mark.parametrize(("rank", "need"), [(0, 768), (8, 512)])
def test_many_ranks_are_many_connections(
    cfg: RunConfig, few_files: None, rank: int, need: int
) -> None:
    cfg.data.workers = 0
    result = node.open_files(cfg, replace(PLACE, ranks=256, rank=rank))
    assert (result.status, result.found) == (FAIL, f"limit 300, needs {need}")


def test_the_odd_one_out_is_wrong() -> None:
    found = {"n1": "torch 2.13", "n2": "torch 2.12", "n3": "torch 2.13"}
    rows = [Finding(check="versions", node=n, found=t, alike=t) for n, t in found.items()]
    rows += [Finding(check="shards", node=n, found=f"{n}: 1 of 1") for n in found]
    judged = compare(rows)
    assert [f.node for f in judged if f.status == FAIL] == ["n2"]
    assert len(judged) == 6
