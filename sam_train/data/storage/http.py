"""Parts of a file on a web server that may fail, stall or lie."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from sam_train.data.storage.sources import Facts, Source, Span, cut, merged
from sam_train.runtime.text import one_line

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
# Also 425, "too early", and 429, "too many requests", which some stores answer under load.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 1 << 18


@dataclass(slots=True, kw_only=True)
class Patience:
    """Time limits for a server's answers."""

    attempts: int = 5
    """Tries of one request."""
    backoff: float = 0.5
    """Seconds before the second try, doubled each time, at random up to half as long again."""
    timeout: float = 20.0
    """Seconds without a byte after which a try has failed."""
    slowest: float = 65536.0
    """Bytes per second, below which a try has failed once `timeout` is over."""
    grudge: float = 30.0
    """Seconds during which a server that failed every try is tried only once a request: a run
    must notice that a server is gone, rather than wait for each of its samples."""


PATIENCE = Patience()

# By process: connections must not be shared with a forked child.
_pools: dict[tuple[int, str], urllib3.PoolManager] = {}
_failed_at: dict[str, float] = {}


class _TransientError(OSError):
    """Worth another try."""

    def __init__(self, message: str, *, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class _Part:
    data: bytes
    total: int | None
    stamp: str


class HttpSource(Source):
    """A file that a web server gives in ranges. Connections are kept alive, per process."""

    def facts(self) -> Facts:
        """Ask for one byte. Signed links answer no HEAD, and the answer shows that the server knows
        ranges."""
        part = self._request(Span(0, 1))
        if part.total is None:
            raise OSError(f"{self.name}: the server does not say how long it is")
        return Facts(part.total, part.stamp)

    def read_many(self, spans: Sequence[Span], *, size: int | None = None) -> list[bytes]:
        """Read each merged span by one range request, tried again where that can help."""
        groups = merged(spans)
        blocks = []
        for group in groups:
            part = self._request(group)
            # Without this, bytes of a replaced shard would be decoded at places of the old one.
            if size is not None and part.total not in {None, size}:
                raise self._changed()
            if len(part.data) != group.size:
                raise self._ends_early()
            blocks.append(part.data)
        return cut(spans, groups, blocks)

    def _request(self, span: Span) -> _Part:
        # No range can say zero bytes.
        if not span.size:
            return _Part(b"", None, "")
        server = urlsplit(self.path).netloc
        # A server that failed every try lately gets one: a run ends rather than waits for hours.
        # Monotonic: a clock that is set back must not prolong the grudge.
        resented = time.monotonic() - _failed_at.get(server, -PATIENCE.grudge) < PATIENCE.grudge
        attempts = 1 if resented else PATIENCE.attempts
        for attempt in range(1, attempts + 1):
            try:
                part = self._try(span)
            except _TransientError as error:
                if attempt == attempts:
                    _failed_at[server] = time.monotonic()
                    times = "" if attempts == 1 else f" ({attempts} tries)"
                    raise OSError(f"{self.name}: {error}{times}") from None
                # Spread at random: many workers would otherwise come back at the same moment.
                pause = PATIENCE.backoff * 2 ** (attempt - 1) * random.uniform(1, 1.5)
                # The server's own Retry-After counts, but no more than a grudge: a worker must not
                # sleep for hours.
                time.sleep(max(pause, min(error.wait, PATIENCE.grudge)))
            else:
                _failed_at.pop(server, None)
                return part
        raise AssertionError("every attempt returns or raises")

    def _try(self, span: Span) -> _Part:
        headers = {
            "Range": f"bytes={span.offset}-{span.end - 1}",
            # A compressed answer would count other bytes than the range.
            "Accept-Encoding": "identity",
        }
        response: urllib3.BaseHTTPResponse | None = None
        whole = False
        try:
            response = _pool(self.path).request(
                "GET",
                self.path,
                headers=headers,
                # Read in pieces below, so that a slow body can be given up.
                preload_content=False,
                timeout=PATIENCE.timeout,
            )
            part = self._receive(response, span)
            # Without a length, the end of the body has not been read.
            whole = "Content-Length" in response.headers
            return part
        except MaxRetryError as error:
            raise _TransientError(one_line(error.reason or error)) from None
        except HTTPError as error:
            raise _TransientError(one_line(error)) from None
        finally:
            # What is left of a body that nobody wants would arrive before the next answer.
            if response is not None:
                # A connection goes back to the pool only where its body was read to the end.
                response.release_conn() if whole else response.close()

    def _receive(self, response: urllib3.BaseHTTPResponse, span: Span) -> _Part:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(match[3]) if match is not None and match[3] != "*" else None
        stamp = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        # 416: the range begins behind the end, which is an empty answer here.
        if response.status == 416 and total is not None and total <= span.offset:
            return _Part(b"", total, stamp)
        self._check_status(response)
        if match is None or match[1] is None or int(match[1]) != span.offset:
            raise OSError(f"{self.name}: the server answers with another range than asked for")
        # HTTP's ranges include their last byte.
        length = int(match[2]) + 1 - span.offset
        end = span.end if total is None else min(span.end, total)
        if length != end - span.offset:
            raise OSError(f"{self.name}: the server answers with another range than asked for")
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(length):
            raise _TransientError(f"the server announces {announced} bytes instead of {length}")
        return _Part(self._body(response, length), total, stamp)

    def _check_status(self, response: urllib3.BaseHTTPResponse) -> None:
        status = response.status
        if status in {404, 410}:
            raise FileNotFoundError(f"{self.name} does not exist on the server ({status})")
        if status in {401, 403}:
            raise PermissionError(
                f"{self.name}: the server refuses it ({status}); the link may have expired"
            )
        if status in _TRANSIENT:
            wait = response.headers.get("Retry-After", "")
            raise _TransientError(
                f"the server answers {status}", wait=float(wait) if wait.isdigit() else 0.0
            )
        # The whole shard would follow: 11 GB for each sample.
        if status == 200:
            raise OSError(f"{self.name}: the server does not know ranges; download it, or use "
                          "data.mode=stream")  # fmt: skip
        if status != 206:
            raise OSError(f"{self.name}: the server answers {status}")

    def _body(self, response: urllib3.BaseHTTPResponse, length: int) -> bytes:
        # The timeout of urllib3 counts from byte to byte; this counts the whole body.
        begun = time.monotonic()
        data = bytearray()
        while len(data) < length:
            # `read1` returns what has arrived; `read` would wait for all of it, however slowly that
            # came.
            chunk = response.read1(min(_CHUNK, length - len(data)), decode_content=False)
            if not chunk:
                raise _TransientError(f"the connection was cut after {len(data)} bytes")
            data += chunk
            spent = time.monotonic() - begun
            if spent > PATIENCE.timeout and len(data) < PATIENCE.slowest * spent:
                raise _TransientError(f"only {len(data)} bytes came in {spent:.0f} seconds")
        return bytes(data)


def _pool(url: str) -> urllib3.PoolManager:
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy is None or proxy_bypass(parts.hostname or ""):
        proxy = ""
    # By process: a connection must not be shared after a fork.
    place = os.getpid(), proxy
    if place not in _pools:
        make = partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
        _pools[place] = make(
            num_pools=16,
            maxsize=16,
            # Left to itself it would take a 503 with Retry-After for its own affair.
            retries=urllib3.Retry(
                connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False
            ),
        )
    return _pools[place]
