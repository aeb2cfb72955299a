"""The checks of a node by itself; each public one answers one question with a `Result`."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sam_train.cluster.doctor.findings import FAIL, WARN, Check, Result
from sam_train.cluster.doctor.place import JobRank, devices
from sam_train.data.feed.loader import check_masks_per_gpu
from sam_train.data.feed.mix import read_mix
from sam_train.data.formats.spec import list_records, split_entries
from sam_train.data.shards.patterns import resolve
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import PIPE, is_remote
from sam_train.data.storage.tar import BLOCK, parse_header
from sam_train.errors import UserError
from sam_train.model import build
from sam_train.model.build import build_from_config
from sam_train.runtime.devices import lacks_bfloat16, uses_gpus
from sam_train.runtime.text import one_line
from sam_train.settings.run import RunConfig, check_config

_SHARDS = 64
"""Shards that a node tries, each node from another one on, so that many nodes try them all."""
_ASKING = 16
"""Threads that ask for sizes."""
_PROBE = 1 << 24
"""Bytes that are read from a shard and written into run_dir."""
_TELLING = 1 << 20
"""Bytes below which the time of a read says nothing about a rate."""
# Its ones' product is a power of two, which bfloat16 and float16 hold exactly.
_PRODUCT = 2048
_FREE, _HALF_FREE = 0.9, 0.5


def checks_of(cfg: RunConfig, place: JobRank, *, node_number: int) -> list[Check]:
    """List the checks of a node that need no other node."""
    storage = "its file system does not answer: try `ls` there on this node, and `dmesg`"
    return [
        Check("versions", versions, storage),
        Check("settings", partial(settings, cfg, place), storage),
        Check(
            "gpus",
            partial(gpus, cfg, place),
            "the driver does not answer: try nvidia-smi on this node, and `dmesg`",
        ),
        Check("shards", partial(shards, cfg, first=node_number), storage),
        Check("run_dir", partial(run_dir, cfg, place), storage),
        Check("open files", partial(open_files, cfg, place), storage),
        Check("/dev/shm", partial(shared_memory, cfg, place), storage),
    ]


def versions() -> Result:
    """Report the versions of code and libraries, which must be the same on all nodes."""
    root = Path(__file__).resolve().parents[2]
    code = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(path.read_bytes())
    parts = [
        f"sam_train {version('sam_train')} (code {code.hexdigest()[:8]})",
        f"python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"lightning {version('lightning')}",
    ]
    if torch.cuda.is_available():
        parts.append(f"CUDA {torch.version.cuda}")
        parts.append(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")  # type: ignore[no-untyped-call]
    found = ", ".join(parts)
    return Result(found, alike=found)


def settings(cfg: RunConfig, place: JobRank) -> Result:
    """Check that the settings go together on so many processes, and fingerprint them.

    Raises:
        UserError: they do not go together.
    """
    check_config(cfg)
    data = cfg.data if uses_gpus(cfg.trainer) else replace(cfg.data, masks_per_gpu=None)
    check_masks_per_gpu(data, world_size=place.ranks, accumulate=cfg.trainer.accumulate)
    fingerprint = hashlib.sha256(repr(asdict(cfg)).encode()).hexdigest()[:8]
    accumulate = cfg.trainer.accumulate
    images = cfg.data.batch_size // (place.ranks * accumulate)
    found = f"{place.ranks} processes x {accumulate} turns x {images} images (mark {fingerprint})"
    return Result(found, alike=found)


def gpus(cfg: RunConfig, place: JobRank) -> Result:
    """Check the GPUs' number, their free memory, and a matrix product on each."""
    if not uses_gpus(cfg.trainer):
        return Result(f"none: trains on the CPU, {os.cpu_count()} cores")
    wanted = devices(cfg.trainer)
    if torch.cuda.device_count() <= max(wanted, default=0) or len(wanted) < place.local_ranks:
        return Result(
            f"{torch.cuda.device_count()} visible, {place.local_ranks} needed",
            FAIL,
            "ask Slurm for GPUs per node, not per task; CUDA_VISIBLE_DEVICES must show them all",
        )
    free, total = {}, 0
    for index in wanted:
        free[index], total = torch.cuda.mem_get_info(index)
        if not _calculates(index, half=cfg.trainer.precision == "16-mixed"):
            return Result(
                f"GPU {index} makes mistakes in a matrix product",
                FAIL,
                "leave this node out (sbatch --exclude) and have the GPU looked at",
            )
    least = min(free, key=lambda index: free[index])
    share = free[least] / total
    name = torch.cuda.get_device_name(wanted[0])
    found = f"{len(wanted)} x {name}, {size(free[least])} of {size(total)} free or more"
    if share < _FREE:
        status = WARN if share >= _HALF_FREE else FAIL
        return Result(found, status, f"somebody else uses GPU {least}: nvidia-smi says who")
    if lacks_bfloat16(cfg.trainer):
        return Result(found, WARN, "bfloat16 is only emulated on it: trainer.precision=16-mixed")
    return Result(found)


def _calculates(index: int, *, half: bool) -> bool:
    dtype = torch.float16 if half else torch.bfloat16
    ones = torch.ones(_PRODUCT, _PRODUCT, device=f"cuda:{index}", dtype=dtype)
    return bool((ones @ ones == _PRODUCT).all())


def shards(cfg: RunConfig, *, first: int) -> Result:
    """Check that the shards exist and are tars, and measure how fast one is read.

    Raises:
        UserError: a pattern matches nothing.
    """
    stream = cfg.data.mode == "stream"
    if cfg.data.mix:
        sources = [part.source for part in read_mix(cfg.data.mix)]
        paths, listed = _resolved(sources, option="data.mix")
    else:
        paths, listed = _resolved(cfg.data.train, option="data.train", pipes=stream)
    if cfg.data.val:
        more, also = _resolved(cfg.data.val, option="data.val")
        paths, listed = paths + more, listed + also
    if listed and not paths:
        return Result(f"no shards, but {', '.join(listed)}", alike=", ".join(listed))
    files = [path for path in paths if not path.startswith(PIPE)]
    tried = spread(files, count=_SHARDS, first=first)
    wrong = [problem for path in tried if (problem := _problem_of(path))]
    piped = f", {len(paths) - len(files)} pipes not tried" if len(files) < len(paths) else ""
    if wrong:
        return Result(
            f"{len(wrong)} of {len(tried)} tried cannot be read, the first: {wrong[0]}",
            FAIL,
            "is their file system mounted on this node, and may this user read it?",
        )
    if not tried:
        return Result(f"nothing tried{piped}", WARN, "pipes are only started by training")
    alike = _sizes(paths)
    beside = f", {', '.join(listed)}" if listed else ""
    found = f"{len(tried)} of {len(files)} tried{_read_rate(tried[0])}{piped}{beside}{alike}"
    return Result(found, alike=alike)


def _resolved(patterns: Any, *, option: str, pipes: bool = False) -> tuple[list[str], list[str]]:
    """Return the paths of shards, and a line about each data set of another format among them.

    Raises:
        UserError: a pattern matches nothing, or a data set cannot be read.
    """
    shards, specs = split_entries(patterns, setting=option)
    listed = [f"{spec.name} with {len(list_records(spec).records):,} photos" for spec in specs]
    if pipes and specs:
        raise UserError(f"{option}: {specs[0].reader}:{specs[0].path} needs data.mode=indexed.")
    paths = resolve(shards, option=option, pipes=pipes) if shards or not specs else []
    return paths, listed


def _sizes(paths: Sequence[str]) -> str:
    """Total and fingerprint the sizes of the shards on disks.

    A node may have copies of its own, of which some are missing or cut.
    """
    files = [path for path in paths if not (path.startswith(PIPE) or is_remote(path))]
    if not files:
        return ""
    with ThreadPoolExecutor(_ASKING) as pool:
        sizes = list(pool.map(lambda path: Path(path).stat().st_size, files))
    fingerprint = hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]
    return f", {size(sum(sizes))} in all (mark {fingerprint})"


def spread(paths: Sequence[str], *, count: int, first: int) -> list[str]:
    """Pick at most `count` paths, evenly over all; another `first` gives others."""
    if len(paths) <= count:
        return list(paths)
    return [paths[(first + k * len(paths) // count) % len(paths)] for k in range(count)]


def _problem_of(path: str) -> str:
    try:
        source = open_source(path)
        length = source.size()
        if length < 2 * BLOCK or parse_header(source.read(0, BLOCK)) is None:
            return f"{source.name} is no tar"
        # A file that was cut has its size, but not its end, on some object stores.
        source.read(length - BLOCK, BLOCK)
    except OSError as error:
        return f"{path}: {error.strerror or one_line(error)}"
    return ""


def _read_rate(path: str) -> str:
    source = open_source(path)
    length = min(source.size(), _PROBE)
    begin = time.monotonic()
    source.read(0, length)
    rate = length / 1e6 / max(time.monotonic() - begin, 1e-6)
    return f", {rate:.0f} MB/s from {source.name}" if length >= _TELLING else ""


def run_dir(cfg: RunConfig, place: JobRank) -> Result:
    """Check that run_dir can be written and has room for the checkpoints to come."""
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # One more than is kept: a new checkpoint is complete before retention deletes an old one.
    need = _checkpoint_bytes(cfg) * (cfg.checkpoint.keep_last + cfg.checkpoint.keep_best + 1)
    free = shutil.disk_usage(folder).free
    rate = _write_rate(folder, place)
    found = f"{size(free)} free, {size(need)} for checkpoints, {rate:.0f} MB/s written"
    if free < need:
        return Result(
            found,
            FAIL,
            "another run_dir=, or lower checkpoint.keep_last and checkpoint.keep_best",
        )
    return Result(found)


def _checkpoint_bytes(cfg: RunConfig) -> float:
    """Count the bytes of float32 weights and AdamW's two moments."""
    with torch.device("meta"):
        sam = build_from_config(cfg.model)
    return 12.0 * sum(p.numel() for p in sam.parameters())


def size(amount: float) -> str:
    """Format bytes for people, in powers of 1000."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.3g} {units[0]}"


def gradient_bytes(cfg: RunConfig) -> float:
    """Count the bytes that an update averages under ddp, one float32 for each weight."""
    return _checkpoint_bytes(cfg) / 3


def _write_rate(folder: Path, place: JobRank) -> float:
    """Measure MB/s to the disk."""
    path = folder / f".doctor-{place.node}-{os.getpid()}"
    begin = time.monotonic()
    try:
        with path.open("wb") as file:
            file.write(bytes(_PROBE))
            file.flush()
            # Without it the rate would be that of the page cache.
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    return _PROBE / 1e6 / max(time.monotonic() - begin, 1e-6)


def open_files(cfg: RunConfig, place: JobRank) -> Result:
    """Check the limit of open files against the tensors and connections to come."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # A tensor on its way from a data worker is an open file, and so is a connection. gloo has one
    # to each rank, and each rank one to the first, which holds the store.
    connections = place.ranks * (2 if place.rank == 0 else 1)
    need = 256 + 16 * cfg.data.workers * (cfg.data.prefetch + 1) + connections
    found = f"limit {limit}, needs {need}"
    if limit != resource.RLIM_INFINITY and limit < need:
        return Result(
            found,
            FAIL,
            f"ulimit -n {max(4096, need)} before the launch; where that is refused, who runs the "
            "cluster raises the hard limit (LimitNOFILE, limits.conf)",
        )
    return Result(found)


def shared_memory(cfg: RunConfig, place: JobRank) -> Result:
    """Check the room in /dev/shm, in which data workers hand their batches over."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Result("not used on this system")
    arch = build.resolve(cfg.model)
    images = -(-cfg.data.batch_size // (place.ranks * cfg.trainer.accumulate))
    # Masks are uint8 at the decoder's resolution, four times that of the embedding.
    masks = cfg.data.masks_per_image * (4 * arch.image_size // arch.stride) ** 2
    in_flight = place.local_ranks * cfg.data.workers * (cfg.data.prefetch + 1)
    need = in_flight * images * (3 * arch.image_size**2 + masks)
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free, batches take up to {size(need)}"
    if free < need:
        return Result(
            found,
            FAIL,
            "lower data.workers or data.prefetch, or give the container more (docker --shm-size)",
        )
    return Result(found)
