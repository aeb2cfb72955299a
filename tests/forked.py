"""A Python that starts by forking from a process that has imported everything.

`forked.python()` is the path of a program to use as `sys.executable` where the start itself is not
what a test looks at. It understands `-m MODULE`, `-c CODE` and `SCRIPT`, with its own environment,
folder, files, signals and exit status, and costs a fifth of a fresh start. Its `sys.executable` is
the same program, so that ranks which Lightning or torchrun launch are forked as well.

pytest-xdist's workers are forked from the server of the process that starts them, and use it.

A fresh interpreter is needed where variables are read during imports (OMP_NUM_THREADS), where
limits such as `ulimit -f` are handed on, and where a test kills a whole process group.

    forked.py --server SOCKET          the process that all of them fork from
    forked.py SOCKET WORDS...          one start: hands over to the server, ends as its child ends
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from functools import cache

NUMBER = struct.Struct("!q")
READY = b"ready\n"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
VARIABLE = "SAM_TRAIN_TESTS_FORKED"
"""Names the program of a server that a parent process has started."""
FRESH = f"{VARIABLE}_FRESH"
"""Names the parent's own `sys.executable`."""
FILES = 250
"""The most that a socket hands over at once."""


@cache
def python() -> str:
    """Start the server, unless a parent did, and return the program to use as `sys.executable`."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    import atexit  # noqa: PLC0415 - a client starts without all of these
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import tempfile  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="forked"))
    program, path = folder / "python", str(folder / "socket")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {path} "$@"\n')
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, "--server", path, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C ends the tests, which end their server
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == READY, "the server of forks has ended"

    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    return str(program)


def restore_executable() -> None:
    """Let `sys.executable` start a fresh Python in a worker of the tests that was forked."""
    if FRESH in os.environ:
        sys.executable = os.environ[FRESH]


def exactly(connection: socket.socket, size: int) -> bytes:
    """Receive `size` bytes, fewer only where the other side is gone."""
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def hand_over(path: str, words: list[str]) -> None:
    """Have the server fork a process for `words`, pass signals on to it, and end as it ends."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    ignored = {number for number in FORWARDED if signal.getsignal(number) is signal.SIG_IGN}
    files = inherited_files()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    numbers = [" ".join(str(int(n)) for n in each) for each in (files, earlier, ignored)]
    parts = [os.getcwd(), *numbers, str(len(words)), *words, *environment]  # noqa: PTH109 - before pathlib
    message = "\0".join(parts).encode(errors="surrogateescape")
    socket.send_fds(connection, [NUMBER.pack(len(message))], files)
    connection.sendall(message)
    child = NUMBER.unpack(exactly(connection, NUMBER.size))[0]

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in set(FORWARDED) - ignored:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
    answer = exactly(connection, NUMBER.size)
    status = NUMBER.unpack(answer)[0] if answer else 1
    if os.WIFSIGNALED(status):
        ended_by = os.WTERMSIG(status)
        if ended_by != signal.SIGKILL:
            signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    os._exit(os.waitstatus_to_exitcode(status))


def inherited_files() -> list[int]:
    """List the open descriptors of a process that has opened none itself."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - before pathlib
        with suppress(OSError):  # the descriptor of the listing itself
            os.fstat(int(name))
            found.append(int(name))
    return sorted(found)


def serve(listener: socket.socket) -> tuple[list[str], list[str]]:
    """Fork a process for each client, for as long as standard input is open.

    Returns:
        In a forked process alone: the words of its command line and its environment.
    """
    import selectors  # noqa: PLC0415 - a client starts without it

    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    children: dict[int, tuple[int, socket.socket]] = {}
    """pidfd -> pid and client."""
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                size, descriptors, _, _ = socket.recv_fds(connection, NUMBER.size, FILES)
                message = exactly(connection, NUMBER.unpack(size)[0])
                child = os.fork()
                if child == 0:
                    selector.close()
                    listener.close()
                    for pidfd, (_, other) in children.items():
                        os.close(pidfd)
                        other.close()
                    connection.close()
                    return become(message.decode(errors="surrogateescape"), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.sendall(NUMBER.pack(child))
                pidfd = os.pidfd_open(child)
                children[pidfd] = (child, connection)
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(connection, selectors.EVENT_READ, data=pidfd)
            elif key.data is not None:
                # The client was killed: its process ends as if it were the client.
                selector.unregister(key.fileobj)
                os.kill(children[key.data][0], signal.SIGKILL)
            else:
                pid, connection = children.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                if connection in {each.fileobj for each in selector.get_map().values()}:
                    selector.unregister(connection)
                with suppress(OSError):
                    connection.sendall(NUMBER.pack(status))
                connection.close()
                break  # the rest of this round may speak of what is closed


def become(message: str, descriptors: list[int]) -> tuple[list[str], list[str]]:
    """Take over a client's group, files, signals and folder."""
    folder, *numbers, count, rest = message.split("\0", 5)
    files, blocked, ignored = ([int(n) for n in text.split()] for text in numbers)
    os.setpgid(0, 0)
    # First out of the way of each other's numbers.
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, max(files) + 1) for each in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for target, descriptor in zip(files, moved, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    for number in FORWARDED:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.chdir(folder)
    words = rest.split("\0")
    return words[: int(count)], words[int(count) :]


def execute(words: list[str], environment: list[str]) -> None:
    """Do what `python WORDS...` does."""
    import runpy  # noqa: PLC0415 - a client starts without all of these
    from pathlib import Path  # noqa: PLC0415
    from types import ModuleType  # noqa: PLC0415

    os.environ.clear()
    os.environ.update(pair.split("=", 1) for pair in environment)
    # multiprocessing hands its own flags on, such as -B. Output is unbuffered without -u, too:
    # pytest-xdist writes to descriptors itself.
    while words[0] in ("-u", "-B", "-E", "-I", "-s", "-S"):
        words = words[1:]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if words[0] == "-c":
        sys.argv, sys.path[0], code = ["-c", *words[2:]], "", compile(words[1], "<string>", "exec")
    else:
        script = Path(words[0]).absolute()
        main.__file__ = str(script)
        sys.argv, sys.path[0] = words, str(script.parent)
        code = compile(script.read_bytes(), str(script), "exec")
    exec(code, main.__dict__)


def import_everything() -> None:
    """Load all that a command of this project loads, and start no thread."""
    import gc  # noqa: PLC0415 - the server alone
    from pathlib import Path  # noqa: PLC0415

    from sam_train.runtime.lean_start import postpone_torchmetrics  # noqa: PLC0415

    postpone_torchmetrics()
    import torch  # noqa: PLC0415

    import sam_train.train.fit  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would hold their locks for ever"
    # The collector would write to every page that the forked processes share.
    gc.freeze()


if __name__ == "__main__":
    if sys.argv[1] != "--server":
        hand_over(sys.argv[1], sys.argv[2:])
    import_everything()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[2])
    listening.listen(64)
    os.write(1, READY)
    sys.executable = sys.argv[3]
    execute(*serve(listening))
