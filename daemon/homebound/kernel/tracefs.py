# SPDX-License-Identifier: Apache-2.0
"""Where the kernel lists its tracepoints. On a host where that is not mounted, a mount that only the calling
process sees: for a short-lived child, never for the daemon.

Imports nothing of ours. Source: Documentation/trace/ftrace.rst, unshare(2), mount(2).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18

_LIBC = ctypes.CDLL(None, use_errno=True)


def folder() -> Path:
    """The file system's folder; raises OSError where it cannot be mounted."""
    for place in PLACES:
        if (place / "events").is_dir():
            return place
    _check(_LIBC.unshare(CLONE_NEWNS), "unshare(2)")
    _check(_LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount(2)")
    _check(_LIBC.mount(b"tracefs", bytes(PLACES[0]), b"tracefs", 0, None), "mount(2) of tracefs")
    return PLACES[0]


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
