# SPDX-License-Identifier: Apache-2.0
"""Open what should not be there: device nodes by path, folders for writing, file systems to mount.

Shared by the channel files that differ only in their lists. Nothing is written to what is opened. Imports the
standard library only. Source: open(2), fsopen(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from homebound.leaktest.target import system_call

FSOPEN = 430  # on every architecture, since 5.2
# As a shell's ``>>`` opens it, so that a folder which may not be written refuses, too. No terminal is taken
# over, nothing waits for a carrier.
FLAGS = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_each(paths: Iterable[str]) -> dict[str, Callable[[], None]]:
    """Ways for try_each: open each node for reading and writing, and close it."""

    def way(path: str) -> Callable[[], None]:
        return lambda: os.close(os.open(path, FLAGS, 0o600))

    return {path.removeprefix("/dev/"): way(path) for path in paths}


def make_in_each(folders: Iterable[str]) -> dict[str, Callable[[], None]]:
    """Ways for try_each: make a file without a name in each folder (O_TMPFILE). It is gone when it is
    closed."""

    def way(folder: str) -> Callable[[], None]:
        return lambda: os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    return {folder: way(folder) for folder in folders}


def mount_each(kinds: Iterable[str]) -> dict[str, Callable[[], None]]:
    """Ways for try_each: begin to mount a file system of each kind. Nothing is attached anywhere."""

    def way(kind: str) -> Callable[[], None]:
        return lambda: os.close(system_call(FSOPEN, ctypes.c_char_p(kind.encode()), ctypes.c_uint(0)))

    return {f"mount {kind}": way(kind) for kind in kinds}


def present(patterns: Iterable[str]) -> list[str]:
    """The nodes of this host that match, a few of each pattern."""
    few = 2
    return [str(path) for pattern in patterns for path in sorted(Path("/dev").glob(pattern))[:few]]


def registered(kinds: Iterable[str]) -> list[str]:
    """Those of the kinds of file system that this kernel has loaded; asking for another would load it."""
    lines = Path("/proc/filesystems").read_text(encoding="ascii").splitlines()
    return sorted({line.split()[-1] for line in lines if line} & set(kinds))


def place(safe: list[str], every: Iterable[str], what: str) -> Mapping[str, object]:
    """A place: ``safe`` for the control, ``every`` in the sandbox. OSError when the host has nothing to
    open."""
    if not safe:
        raise OSError(errno.ENOENT, f"this host has no {what}")
    return {"paths": safe, "inside": {"paths": sorted({*safe, *every})}}
