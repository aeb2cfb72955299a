"""HTTP answers, one at a time: what lies behind a link, and its bytes from an offset on.

Every fault of the far side becomes a `TransferError` that knows whether trying again can help.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import LocationValueError, MaxRetryError, ResponseError

CHUNK = 1 << 20
SLOWEST = 1024
"""Bytes per second below which a connection counts as stalled."""
_CONNECT_SECONDS = 30.0


class Fault(Enum):
    """The kinds of faults, as the closing list groups them."""

    EXPIRED = "expired or refused"
    DEAD = "dead"
    REFUSED = "not usable"
    SERVER = "server in trouble"
    NETWORK = "connection lost"
    CONTENT = "wrong content"

    @property
    def passes(self) -> bool:
        """True if trying again can help."""
        return self in (Fault.SERVER, Fault.NETWORK, Fault.CONTENT)


class TransferError(Exception):
    """A file could not be had; `str()` is the reason, without the link's signature."""

    def __init__(self, fault: Fault, reason: str, *, wait: float = 0.0, anew: bool = False) -> None:
        super().__init__(reason)
        self.fault = fault
        self.anew = anew
        """True where the bytes that are there cannot be continued."""
        self.wait = wait
        """Seconds that the server asks for before the next try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file as its server describes it. The link is no part of it: signatures change."""

    size: int | None = None
    """Bytes; None if it does not tell."""
    etag: str | None = None
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """Validator for If-Range, which takes no weak ETag (RFC 9110, 13.1.5)."""
        weak = self.etag is None or self.etag.startswith("W/")
        return self.last_modified if weak else self.etag

    def __str__(self) -> str:
        size = "unknown length" if self.size is None else f"{self.size:,} bytes"
        return f"{size}, ETag {self.etag}" if self.etag else size

    def is_same(self, other: Remote) -> bool:
        """Tell whether nothing that both know speaks against one and the same file."""
        if None not in (self.size, other.size) and self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag.removeprefix("W/") == other.etag.removeprefix("W/")
        if self.last_modified and other.last_modified:
            return self.last_modified == other.last_modified
        return True


class Body:
    """The bytes of an answer."""

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        *,
        remote: Remote,
        offset: int,
        stall_seconds: float,
    ) -> None:
        self.remote = remote
        self.offset = offset
        """Place of the first byte in the file, 0 if the server would not continue."""
        self.end_is_told = (
            remote.size is not None
            or response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        )
        """True where the end of the file can be told from a cut."""
        self._announced = _number(response.headers.get("Content-Length"))
        self._is_empty = response.status == 416  # its bytes would be an error page
        self._response = response
        self._stall_seconds = stall_seconds

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes as they come.

        Raises:
            TransferError: cut, stalled (no byte, or nearly none, for `stall_seconds`).
        """
        total = since = 0
        begin = time.monotonic()
        while not self._is_empty and (data := self._read()):
            yield data
            total += len(data)
            since += len(data)
            passed = time.monotonic() - begin
            if passed > self._stall_seconds:
                # A byte now and then keeps a socket's own timeout from ever striking.
                if since < SLOWEST * passed:
                    raise TransferError(Fault.NETWORK, f"stalled: {since / passed:.0f} bytes/s")
                begin, since = time.monotonic(), 0
        if not self._is_empty and self._announced is not None and total < self._announced:
            raise TransferError(
                Fault.NETWORK, f"cut after {total:,} of {self._announced:,} bytes of an answer"
            )

    def _read(self) -> bytes:
        try:
            # read1, not read: bytes that came before a cut are kept, and progress is seen.
            data = self._response.read1(CHUNK, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            raise TransferError(
                Fault.NETWORK, f"stalled: no byte for {self._stall_seconds:g} s"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if any(isinstance(cause, urllib3.exceptions.IncompleteRead) for cause in error.args):
                return b""  # fewer than announced: `chunks` counts, and tells more
            # ValueError: another thread still reads while `close` is called.
            raise TransferError(Fault.NETWORK, f"connection cut ({_root(error)})") from None
        return data

    def close(self) -> None:
        """Give the connection up."""
        self._response.close()

    def end(self) -> None:
        """Keep the connection for the next question, if hardly anything is left to be read."""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            if not self._is_empty and self._announced is not None and self._announced <= 1:
                self._response.drain_conn()
        self.close()

    def interrupt(self) -> None:
        """End a read that another thread waits in; for that one the connection is cut."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has ended already
            self._response.shutdown()


class Client:
    """Asks for files; may be used from many threads."""

    def __init__(self, *, stall_seconds: float, connections: int) -> None:
        """
        Args:
            connections: kept alive for each server.
        """
        self._stall_seconds = stall_seconds
        self._options: dict[str, Any] = {
            "maxsize": connections,
            "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=stall_seconds),
            # Left to itself it would take a 503 with Retry-After for its own affair.
            "retries": urllib3.Retry(
                connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False
            ),
        }
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def probe(self, url: str) -> Remote:
        """Ask the server what lies behind a link.

        Raises:
            TransferError: as `open`.
        """
        # Not HEAD: a link that is signed for GET answers HEAD with 403 on S3.
        body = self._get(url, first=0, last=0, known=None)
        body.end()
        return body.remote

    def open(self, url: str, *, offset: int, known: Remote | None) -> Body:
        """Open a file from `offset` on, or from 0 on where the server will not continue.

        Args:
            known: the file that the first `offset` bytes came from.

        Raises:
            TransferError: an HTTP status that brings no bytes, an answer that contradicts itself
                or `known`, or no answer.
        """
        return self._get(url, first=offset, last=None, known=known)

    def _get(self, url: str, *, first: int, last: int | None, known: Remote | None) -> Body:
        headers = {"Accept-Encoding": "identity"}
        if first or last is not None:
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
            if known and known.validator:
                headers["If-Range"] = known.validator
        try:
            response = self._pool(url).request("GET", url, headers=headers, preload_content=False)
        except (LocationValueError, MaxRetryError) as error:
            if isinstance(error, MaxRetryError) and not isinstance(error.reason, ResponseError):
                raise TransferError(Fault.NETWORK, f"no answer ({_root(error)})") from None
            raise TransferError(Fault.REFUSED, "the link leads nowhere") from None
        except urllib3.exceptions.HTTPError as error:
            raise TransferError(Fault.NETWORK, f"no answer ({_root(error)})") from None
        try:
            remote, offset = _understood(response, first=first)
        except TransferError:
            response.close()
            raise
        return Body(response, remote=remote, offset=offset, stall_seconds=self._stall_seconds)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the pool of the proxy that the environment names for this link, or of none."""
        parts = urlsplit(url)
        proxy = getproxies().get(parts.scheme, "")
        if proxy_bypass(parts.hostname or ""):
            proxy = ""
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._made(proxy)
            return self._pools[proxy]

    def _made(self, proxy: str) -> urllib3.PoolManager:
        if not proxy:
            return urllib3.PoolManager(**self._options)
        user = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **self._options)


def _understood(response: urllib3.BaseHTTPResponse, *, first: int) -> tuple[Remote, int]:
    """Read what an answer is about and where its first byte belongs."""
    status, headers = response.status, response.headers
    size = _number(headers.get("Content-Length"))
    offset = 0
    if status in (206, 416):
        said = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", headers.get("Content-Range", ""))
        total = _number(said[3]) if said else None
        if status == 416 and (total is None or total != first):
            told = "" if total is None else f": the server's file has {total:,}"
            raise TransferError(
                Fault.CONTENT, f"cannot continue at byte {first:,}{told}", anew=True
            )
        if status == 206 and (said is None or said[1] is None or int(said[1]) != first):
            raise TransferError(
                Fault.CONTENT, f"asked from byte {first:,}, got another part", anew=True
            )
        size, offset = total, first
    elif status != 200:
        raise _refusal(response)
    if status != 416:
        _check_kind(response)
    return Remote(
        size=size, etag=headers.get("ETag"), last_modified=headers.get("Last-Modified")
    ), offset


def _refusal(response: urllib3.BaseHTTPResponse) -> TransferError:
    status = response.status
    reason = f"HTTP {status} {response.reason}".strip()
    if status in (401, 403):
        return TransferError(Fault.EXPIRED, f"{reason}: the link has expired or is not valid")
    if status in (404, 410):
        return TransferError(Fault.DEAD, f"{reason}: no such file on the server")
    if status in (408, 425, 429) or status >= 500:
        wait = _number(response.headers.get("Retry-After")) or 0
        return TransferError(Fault.SERVER, reason, wait=float(wait))
    return TransferError(Fault.REFUSED, reason)


def _check_kind(response: urllib3.BaseHTTPResponse) -> None:
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise TransferError(Fault.REFUSED, "the server sends a web page instead of the file")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise TransferError(Fault.REFUSED, "the server compresses what it must send as it is")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _root(error: BaseException) -> str:
    """Return the innermost cause in few words: urllib3's messages hold the whole signed link."""
    seen: list[BaseException] = []
    todo: list[BaseException] = [error]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.append(one)
            inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
            todo += [e for e in inner if isinstance(e, BaseException)]
    for one in seen:
        if isinstance(one, ssl.SSLError):
            return f"TLS: {one.reason or 'failed'}"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return type(seen[-1]).__name__
