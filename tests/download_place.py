"""A hostile server with four tars, and a folder to fetch them into, for the download's tests.

Import it with `from download_place import Place, made`: pytest has `tests` on its path.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from http_server import HostileServer

from data_tools import download
from data_tools.download_checks import Checksum
from data_tools.download_fetch import Policy
from data_tools.download_links import Link
from data_tools.download_run import Downloader, Outcome

FIRST = "sa_000000.tar"
SIZE = 206_848
"""Bytes of each tar."""
QUICK = Policy(retries=3, stall_seconds=60, first_wait=0.01, longest_wait=0.02)
"""Patience with a server that answers: a slow machine is not a stalled one."""
IMPATIENT = replace(QUICK, stall_seconds=0.3)
"""Patience with a server that stalls on purpose."""


@dataclass(slots=True)
class Place:
    """A server with four tars, and a folder for them."""

    server: HostileServer
    source: Path
    out: Path

    def links(self, count: int = 4) -> list[Link]:
        names = [f"sa_{k:06d}.tar" for k in range(count)]
        return [Link(name, self.server.url(name) + "?signature=secret") for name in names]

    def list_file(self, count: int = 4) -> Path:
        path = self.source.parent / "links.tsv"
        rows = [f"{link.file_name}\t{link.url}\n" for link in self.links(count)]
        path.write_text("file_name\tcdn_link\n" + "".join(rows))
        return path

    def fetch(
        self,
        count: int = 1,
        *,
        policy: Policy = QUICK,
        checksums: dict[str, Checksum] | None = None,
    ) -> Outcome:
        self.out.mkdir(exist_ok=True)
        worker = Downloader(self.out, policy=policy, parallel=2, checksums=checksums or {})
        return worker.fetch(worker.plan(self.links(count)))

    def command(self, *arguments: str, count: int = 4) -> int:
        return download.main([str(self.list_file(count)), "--out", str(self.out), *arguments])

    def ranges(self) -> list[str | None]:
        """Of the requests so far, without the questions for the length."""
        return [seen.range for seen in self.server.seen if seen.range != "bytes=0-0"]

    def is_equal(self, *numbers: int) -> bool:
        names = [f"sa_{k:06d}.tar" for k in numbers]
        return all((self.out / n).read_bytes() == (self.source / n).read_bytes() for n in names)

    def files(self) -> set[str]:
        return {path.name for path in self.out.iterdir()} - {"downloaded.tsv", ".download.lock"}


def write_tar(path: Path, seed: int) -> None:
    """Make a tar of SIZE bytes."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for k, suffix in enumerate(("jpg", "json")):
            info = tarfile.TarInfo(f"sa_{seed}.{suffix}")
            data = rng.bytes(100_000 + k)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with path.open("ab") as file:
        file.write(bytes(SIZE - path.stat().st_size))


@contextmanager
def made(tmp_path: Path) -> Iterator[Place]:
    """Yield the place, with its server running."""
    source = tmp_path / "source"
    source.mkdir()
    for k in range(4):
        write_tar(source / f"sa_{k:06d}.tar", k)
    with HostileServer(source) as server:
        yield Place(server, source, tmp_path / "out")
