"""What makes training on a CPU fast; measured in docs/benchmarks/cpu.md."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: each round frees and takes the same large blocks again,
    and handing them back to the kernel costs a page fault per 4 KiB. Nothing where there is no
    glibc."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    libc.mallopt(_M_TOP_PAD, 1 << 28)
