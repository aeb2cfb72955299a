"""A real local HTTP server with ranges that misbehaves as told, path by path.

    with HostileServer(folder) as server:
        server.behave("sa_000000.tar", Behaviour(cut_after=1000, times=2))
        open_source(server.url("sa_000000.tar"))

Import it with `from http_server import Behaviour, HostileServer`: pytest has `tests` on its path.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """The faults of the answers for one path; several things may at once."""

    status: int | None = None
    """Answer with this status (403, 404, 500, 503, 429) and a short page instead of the file."""
    retry_after: float | None = None
    """Seconds, as the header of the same name."""
    cut_after: int | None = None
    """Close the connection after this many bytes of the body."""
    stall_after: int | None = None
    """Send nothing more after this many bytes of the body (0: not even a header) until the client
    gives up or the server stops."""
    bytes_per_second: float | None = None
    """Send the body this slowly."""
    ignore_range: bool = False
    """Answer 200 with the whole file, whatever part was asked for."""
    length_lie: int = 0
    """Added to the Content-Length; the body keeps its true length."""
    no_length: bool = False
    """Send no Content-Length: the body ends with the connection."""
    chunked: bool = False
    """Send no Content-Length, and the body in chunks that tell its end."""
    total_lie: int = 0
    """Added to the total length in Content-Range."""
    range_lie: int = 0
    """Answer with a part that begins this many bytes later than asked, and say so."""
    flip_byte: int | None = None
    """Invert this byte of the body."""
    redirect: str | None = None
    """Answer 302 with this location."""
    refuse_head: bool = False
    """Answer HEAD with 403, as signed links do."""
    no_etag: bool = False
    """Send no ETag."""
    every: int = 1
    """Only each so-manyeth request goes wrong, beginning with the first."""
    times: int | None = None
    """Only the next so many requests go wrong; null: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    """Without the leading slash and the query."""
    range: str | None
    """`bytes=0-99`."""
    connection: int
    """Requests of one kept-alive connection have the same number."""
    headers: dict[str, str]
    went_wrong: bool
    """True where the answer was one of those that `behave` asked for."""


@dataclass(slots=True)
class _State:
    folder: Path
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str) -> Behaviour:
        with self.lock:
            behaviour = self.behaviours.get(path) or self.behaviours.get("*")
            if behaviour is None or behaviour.times == 0:
                return Behaviour()
            number = self.taken.get(path, 0)
            self.taken[path] = number + 1
            if number % behaviour.every:
                return Behaviour()
            if behaviour.times is not None:
                behaviour.times -= 1
            return behaviour


class HostileServer:
    """Serves the files of a folder; well, until `behave` says otherwise."""

    def __init__(self, folder: Path) -> None:
        self._state = _State(folder)
        state = self._state

        class Handler(_Handler):
            pass

        Handler.state = state
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> HostileServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away, with every stalled answer; later connections are refused."""
        if not self._state.stopping.is_set():
            self._state.stopping.set()
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def url(self, name: str) -> str:
        """Return the address of a file in the folder."""
        return f"{self.address}/{name}"

    def behave(self, name: str, behaviour: Behaviour) -> None:
        """Answer from now on for `name` like this; `*` means every path without its own."""
        with self._state.lock:
            self._state.behaviours[name] = behaviour

    @property
    def seen(self) -> list[Seen]:
        """All requests so far, in order of arrival."""
        with self._state.lock:
            return list(self._state.seen)

    def forget(self) -> None:
        """Empty `seen`."""
        with self._state.lock:
            self._state.seen.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Print nothing into the test's output."""

    def _answer(self, *, with_body: bool) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        behaviour = self.state.take(name)
        with self.state.lock:
            self.state.seen.append(
                Seen(
                    method=self.command,
                    path=name,
                    range=self.headers.get("Range"),
                    connection=self.client_address[1],
                    headers=dict(self.headers.items()),
                    went_wrong=behaviour != Behaviour(),
                )
            )
        if self.state.stopping.is_set():  # on a connection that was kept open
            self._close()
            return
        if behaviour.stall_after == 0:
            self._stall()
            return
        file = self.state.folder / name
        status = behaviour.status or (None if file.is_file() or behaviour.redirect else 404)
        if self.command == "HEAD" and behaviour.refuse_head:
            status = 403
        if status is not None or behaviour.redirect is not None:
            self._page(status or 302, behaviour)
            return
        self._file(file.read_bytes(), file.stat().st_mtime_ns, behaviour, with_body=with_body)

    def _page(self, status: int, behaviour: Behaviour) -> None:
        page = b"<html>not what you asked for</html>"
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        if behaviour.redirect is not None:
            self.send_header("Location", behaviour.redirect)
        if behaviour.retry_after is not None:
            self.send_header("Retry-After", f"{behaviour.retry_after:g}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    def _file(self, data: bytes, stamp: int, behaviour: Behaviour, *, with_body: bool) -> None:
        total = len(data)
        tag = f'"{stamp:x}"'
        asked = None if behaviour.ignore_range else self.headers.get("Range")
        if self.headers.get("If-Range", tag) != tag:
            asked = None
        if asked is not None:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first = int(begin) + behaviour.range_lie
            stop = min(int(end or total - 1) + behaviour.range_lie, total - 1)
            if first > stop:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total + behaviour.total_lie}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = data[first : stop + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{stop}/{total + behaviour.total_lie}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "none" if behaviour.ignore_range else "bytes")
        if not behaviour.no_etag:
            self.send_header("ETag", tag)
        if behaviour.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif behaviour.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(data) + behaviour.length_lie))
        self.end_headers()
        if with_body:
            self._body(data, behaviour)

    def _body(self, data: bytes, behaviour: Behaviour) -> None:
        if behaviour.flip_byte is not None:
            at = behaviour.flip_byte
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        ends = (behaviour.cut_after, behaviour.stall_after)
        stalls = behaviour.stall_after is not None and len(data) > behaviour.stall_after
        data = data[: min((end for end in ends if end is not None), default=len(data))]
        try:
            self._send(_framed(data) if behaviour.chunked else data, behaviour.bytes_per_second)
            if behaviour.chunked and not behaviour.cut_after:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client gave up
            self.close_connection = True
            return
        if stalls:
            self._stall()
        elif behaviour.cut_after is not None or behaviour.length_lie:
            self._close()

    def _send(self, data: bytes, bytes_per_second: float | None) -> None:
        if bytes_per_second is None:
            self.wfile.write(data)
            return
        step = max(1, int(bytes_per_second / 20))
        for at in range(0, len(data), step):
            if self.state.stopping.wait(0.05):
                return
            self.wfile.write(data[at : at + step])

    def _stall(self) -> None:
        # A client that gives up closes its end, and then there is something to "read".
        self.connection.settimeout(0.05)
        while not self.state.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self._close()

    def _close(self) -> None:
        self.close_connection = True
        connection: Any = self.connection
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _framed(data: bytes) -> bytes:
    """Chunks of HTTP, without the last one that ends them."""
    parts = (data[at : at + 5000] for at in range(0, len(data), 5000))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
