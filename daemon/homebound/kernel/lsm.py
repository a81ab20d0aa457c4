# SPDX-License-Identifier: Apache-2.0
"""BPF LSM: which right each role loses at the kernel's security hooks, and whether this kernel has them.

The table here and the one in bpf/include/rights.h are compared by tests/kernel/test_layout.py; the one in
docs/architecture.md by tests/unit/kernel/test_lsm.py. Areas are told by opening: the program on file_open
writes down the inode as the kernel numbers it, which is not always what stat(2) says (btrfs, overlayfs).
May import: events, kernel.bpf, kernel.features. Source: Documentation/bpf/prog_lsm.rst, lsm_hook_defs.h.
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Mapping
from pathlib import Path

from homebound.events import Program
from homebound.kernel import bpf, features

MODULE = "bpf"
OBJECTS: Mapping[str, tuple[Program, ...]] = {
    "lsm": (
        Program.LSM_SOCKET,
        Program.LSM_CONNECT,
        Program.LSM_SEND,
        Program.LSM_RECEIVE,
        Program.LSM_TRACE,
        Program.LSM_BPF,
        Program.LSM_USERNS,
        Program.LSM_KEY,
    ),
    "lsm_open": (Program.LSM_OPEN,),
}
PROGRAMS: tuple[Program, ...] = tuple(program for programs in OBJECTS.values() for program in programs)
# File systems that are memory: a role may write to one, unless it is the host's.
MEMORY = ("tmpfs", "ramfs", "devtmpfs")


class Right(enum.IntEnum):
    """What a role may lose; bits."""

    SOCKET = 1
    CONNECT = 2
    STREAM = 4
    SEND = 8
    OPEN = 16
    RECEIVE = 32
    RECEIVE_LINK = 64
    TRACE = 128
    BPF = 256
    BPF_READ = 512
    USERNS = 1024
    KEY = 2048


ALL = sum(Right)


class Loses(enum.IntEnum):
    """The rights that each role loses. Who is not here loses none: the supervisor builds the walls."""

    WATCHER = ALL - Right.STREAM - Right.BPF_READ
    TRAINER = ALL
    GUARD = ALL - Right.RECEIVE_LINK
    GATEWAY = ALL - Right.STREAM
    CANARY = ALL


class Area(enum.IntEnum):
    """What a folder is to the roles, with all below it."""

    NONE = 0
    DATA = 1
    GUARD = 2
    GATEWAY = 3
    CREDENTIALS = 4
    HOST = 5


class PlaceRecord(ctypes.Structure):
    """struct hb_place"""

    _fields_ = (("inode", ctypes.c_uint64), ("device", ctypes.c_uint32), ("unused", ctypes.c_uint32))


class LessonRecord(ctypes.Structure):
    """struct hb_lesson"""

    _fields_ = (("cgroup", ctypes.c_uint64), ("area", ctypes.c_uint32), ("unused", ctypes.c_uint32))


def lacking(system: Path = Path("/sys")) -> str:
    """Why programs on security hooks would hold nothing here; "" when they would.

    A kernel without ``bpf`` in its list may load and attach them all the same, and never ask them.
    """
    modules = features.lsm(system)
    if modules is None:
        return "securityfs is not mounted, so it is not known whether the kernel asks BPF programs"
    if MODULE not in modules:
        return f"bpf is not among the kernel's security modules ({','.join(modules)}); boot with lsm=...,bpf"
    return ""


def tell(lesson: int, cgroup: int, folder: Path, area: Area) -> bool:
    """Say that ``folder`` and all below is this area; False when the program did not see it being opened.

    ``lesson``: the map of that name. ``cgroup``: id of the calling process's own. Raises OSError.
    """
    key, found = bytes(4), LessonRecord(cgroup, area, 0)
    bpf.update(lesson, key, bytes(found))
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        left = ctypes.create_string_buffer(ctypes.sizeof(LessonRecord))
        bpf.lookup(lesson, key, left)
        return bool(LessonRecord.from_buffer(left).area == Area.NONE)
    finally:
        bpf.update(lesson, key, bytes(LessonRecord()))


def host_memory(proc: Path = Path("/proc")) -> tuple[Path, ...]:
    """Where this process sees file systems that are memory. proc_pid_mountinfo(5)"""
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] in MEMORY:
            found.append(Path(left.split(" ")[4].encode().decode("unicode_escape")))
    return tuple(found)
