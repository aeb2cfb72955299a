"""A file, however often it takes: fetch, continue, verify, and only then its final name."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from data_tools.download_checks import Checksum, Halted, tar_damage
from data_tools.download_http import Body, Client, Fault, Remote, TransferError
from data_tools.download_links import Link
from data_tools.download_part import Arrival, PartialFile

MADE_PROGRESS = 1000
"""A try that brings a file on by this fraction of it is no failure: its server does work."""
WHOLE_TRIES = 2
"""Tries from the first byte of a file that turns out wrong: it may have 10 GB, and as a rule it is
wrong on the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The patience of a download."""

    retries: int = 8
    """Tries in a row without progress that are forgiven."""
    stall_seconds: float = 30.0
    """Silence after which a connection is given up."""
    first_wait: float = 1.0
    """Seconds before the second try; doubles with every further one."""
    longest_wait: float = 120.0
    """Seconds. Also limits what a server asks for."""
    check_tars: bool = True
    """Walk the headers of a tar before it gets its name."""


class Retry:
    """Counts failures, and waits ever longer between tries."""

    def __init__(self, policy: Policy, halt: threading.Event) -> None:
        self._policy = policy
        self._halt = halt
        self._failures = 0

    def reset(self) -> None:
        """Forget the failures so far, after something went well."""
        self._failures = 0

    def after(self, error: TransferError) -> None:
        """Wait for the next try.

        Raises:
            TransferError: `error`, where another try cannot help or there were enough.
            Halted: the run is being stopped.
        """
        self._failures += 1
        if not error.fault.passes or self._failures > self._policy.retries:
            raise error
        wait = self._policy.first_wait * 2 ** min(self._failures - 1, 30)
        # Jitter: many connections that a server cut at once must not come back at once.
        wait = max(wait * random.uniform(0.5, 1.0), error.wait)
        if self._halt.wait(min(wait, self._policy.longest_wait)):
            raise Halted


def probe(link: Link, *, client: Client, policy: Policy, halt: threading.Event) -> Remote:
    """Ask what lies behind a link, as often as the policy allows.

    Raises:
        TransferError: it cannot be had.
        Halted: the run is being stopped.
    """
    retry = Retry(policy, halt)
    while True:
        try:
            return client.probe(link.url)
        except TransferError as error:
            retry.after(error)


class Fetch:
    """A file on its way."""

    def __init__(
        self,
        link: Link,
        part: PartialFile,
        *,
        expected: Remote | None,
        checksum: Checksum | None,
        client: Client,
        policy: Policy,
        halt: threading.Event,
        reached: Callable[[int], None],
    ) -> None:
        """
        Args:
            expected: what the plan found behind the link; None: to be asked.
            checksum: what the file must have, if that is known.
            reached: told the bytes on the disk; they can also become fewer.
        """
        self._link = link
        self._part = part
        self._expected = expected
        self._checksum = checksum
        self._client = client
        self._policy = policy
        self._halt = halt
        self._reached = reached
        self._wrong = 0
        self._body: Body | None = None

    def run(self) -> Arrival:
        """Bring the file to its final name.

        Raises:
            TransferError: it cannot be had; what came of it is kept for another run.
            LocalError: this machine cannot write.
            Halted: the run is being stopped.
        """
        retry = Retry(self._policy, self._halt)
        best = self._part.position()
        while True:
            try:
                return self._verified(end_is_told=self._transferred())
            except TransferError as error:
                if error.anew:
                    self._part.discard()
                    self._wrong += 1
                here = self._part.position()
                size = (self._expected and self._expected.size) or 0
                # Against the best so far: a server that only ever starts anew makes no progress.
                if here > best + size // MADE_PROGRESS:
                    retry.reset()
                best = max(best, here)
                self._reached(here)
                if self._wrong >= WHOLE_TRIES:
                    raise
                retry.after(error)

    def interrupt(self) -> None:
        """End a wait for bytes; for when the run is being stopped."""
        body = self._body
        if body is not None:
            body.interrupt()

    def _transferred(self) -> bool:
        """Bring the part to its end by one answer; whether that end is sure."""
        if self._expected is None:
            self._expected = self._client.probe(self._link.url)
        known, offset = self._part.belongs_to(), self._part.position()
        if known is not None and not known.is_same(self._expected):
            known, offset = None, 0
        self._reached(offset)
        if known is not None and known.size == offset:
            return True
        body = self._client.open(self._link.url, offset=offset, known=known)
        self._body = body
        try:
            self._receive(body, known=known, offset=offset)
        finally:
            self._body = None
            body.close()
        return body.end_is_told

    def _receive(self, body: Body, *, known: Remote | None, offset: int) -> None:
        remote = body.remote
        if self._expected is not None and not remote.is_same(self._expected):
            before, self._expected = self._expected, None
            raise TransferError(
                Fault.CONTENT, f"the server contradicts itself: {before}, then {remote}"
            )
        if body.offset == 0:
            self._part.start(remote)
        elif known is None or not known.is_same(remote):
            raise TransferError(Fault.CONTENT, "the file changed on the server", anew=True)
        here = body.offset
        with self._part.appending() as file:
            for data in body.chunks():
                if self._halt.is_set():
                    raise Halted
                file.write(data)
                here += len(data)
                self._reached(here)
        if remote.size is not None and here > remote.size:
            raise TransferError(
                Fault.CONTENT, f"more bytes than the {remote.size:,} told", anew=True
            )
        if remote.size is not None and here < remote.size:
            raise TransferError(Fault.NETWORK, f"ended after {here:,} of {remote.size:,} bytes")

    def _verified(self, *, end_is_told: bool) -> Arrival:
        """Check the part that seems whole, and give it its name."""
        part, checksum = self._part, self._checksum
        if checksum is not None:
            found = checksum.of(part.path, halted=self._halt.is_set)
            if found != checksum.digest:
                raise TransferError(
                    Fault.CONTENT,
                    f"its {checksum.kind} is {found}, not {checksum.digest}",
                    anew=True,
                )
        damage = None
        is_tar = part.final.name.endswith(".tar")
        sure = end_is_told or checksum is not None
        if is_tar and (self._policy.check_tars or not sure):
            damage = tar_damage(part.path)
        if not sure and (damage or not is_tar):
            told = damage or "no checksum is known"
            raise TransferError(
                Fault.NETWORK, f"the server tells no length, and {told}: it may be cut"
            )
        if damage and checksum is None and not self._wrong:
            raise TransferError(Fault.CONTENT, f"the tar is damaged: {damage}", anew=True)
        size = part.path.stat().st_size
        part.finish()
        return Arrival(
            file_name=part.final.name, size=size, checksum=str(checksum or ""), note=damage or ""
        )
