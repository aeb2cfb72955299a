"""Jobs in a thread, one at a time; an error comes back to the one who asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor


class Background:
    """Runs a job beside the main thread; a new one waits for the one before."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None
        """The exception of a finished job."""

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` when the one before is done. Not a daemon: the end of the program waits."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is running; `error` then says how the job ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self.error = error


def snapshot(tree: Any) -> Any:
    """Copy the tensors in nested dicts and sequences, which training changes, to CPU memory.

    Tensors that share memory share it in the copy too: it would be written twice.
    """
    return _copy(tree, {})


def _copy(tree: Any, known: dict[Any, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        place = (tree.device, tree.untyped_storage().data_ptr(), tree.storage_offset())
        key = (*place, tree.shape, tree.stride(), tree.dtype)
        if key not in known or not tree.numel():
            known[key] = tree.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(tree, dict):
        return {name: _copy(value, known) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_copy(value, known) for value in tree)
    return tree
