# SPDX-License-Identifier: Apache-2.0
"""Opened files: which mount is what to a role, told to hb_files, and how many it counted.

A mount's number is the key, because binds of one file system share its device. It is good as long as the
mount is there, so what was told of an earlier process goes first. The mirror of bpf/include/files.h, compared
by tests/kernel/test_layout.py. May import: events, kernel.bpf, kernel.maps. Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from homebound.events import ROLES_MAX, Role
from homebound.kernel import bpf, maps


class FileArea(enum.IntEnum):
    """What the mount is to the role. NONE: an event that is about no file; OTHER: no mount of the role's."""

    NONE = 0
    DATA = 1
    APP = 2
    STATE = 3
    SYSTEM = 4
    OTHER = 5

    @property
    def label(self) -> str:
        return self.name.lower()


class FileMode(enum.IntEnum):
    """Whether what is written by this opening would arrive. READ is also O_PATH."""

    READ = 0
    WRITE = 1

    @property
    def label(self) -> str:
        return self.name.lower()


AREAS_MAX, MODES_MAX = 8, 2
OPENS_MAX = ROLES_MAX * AREAS_MAX * MODES_MAX
Opens = Mapping[tuple[Role, FileArea, FileMode], int]


class MountRecord(ctypes.Structure):
    """struct hb_mount"""

    _fields_ = (("namespace", ctypes.c_uint32), ("number", ctypes.c_uint32))


def areas(mountinfo: str, folders: Mapping[str, FileArea]) -> Mapping[int, FileArea]:
    """The area of each mount by its number: that of the nearest of ``folders`` above it.

    A path that ends in a slash stands for a mount there and for none below it. Whatever else a role sees was
    mounted for it to run: the system.
    """
    found = {}
    for line in mountinfo.splitlines():
        words = line.split(" ")
        point = PurePosixPath(words[4].encode().decode("unicode_escape"))
        names = [f"{point}/", *(str(path) for path in (point, *point.parents))]
        found[int(words[0])] = next((folders[name] for name in names if name in folders), FileArea.SYSTEM)
    return found


def tell(fd: int, pid: int, folders: Mapping[str, FileArea], proc: Path = Path("/proc")) -> None:
    """Have opens counted in the mount namespace of this process, and in no other.

    ``fd``: the map mount_area. ``folders``: paths as the process sees them. Raises OSError.
    """
    namespace = os.stat(proc / str(pid) / "ns/mnt").st_ino
    found = areas((proc / str(pid) / "mountinfo").read_text(), folders)
    forget(fd)
    for number, area in found.items():
        bpf.update(fd, bytes(MountRecord(namespace, number)), bytes(ctypes.c_uint32(area)))
    # Last: what is half told would be outside.
    bpf.update(fd, bytes(MountRecord(namespace, 0)), bytes(ctypes.c_uint32(FileArea.NONE)))


def forget(fd: int) -> None:
    """Have nothing counted; the map is empty afterwards."""
    keys = list(bpf.keys(fd, ctypes.sizeof(MountRecord)))
    for key in sorted(keys, key=lambda key: MountRecord.from_buffer_copy(key).number):
        bpf.delete(fd, key)


def index(role: Role, area: FileArea, mode: FileMode) -> int:
    """Of a cell of the map opens."""
    return (role * AREAS_MAX + area) * MODES_MAX + mode


def area_label(number: int) -> str:
    """Of the area of an event; "" when it is about no file, or one not known here."""
    known = {area.value: area.label for area in FileArea if area is not FileArea.NONE}
    return known.get(number, "")


def read_opens(fd: int) -> Opens:
    """Every cell of the map ``opens`` that can count, zeros too."""
    counts = maps.read_counts(fd, OPENS_MAX)
    axes = itertools.product(Role, FileArea, FileMode)
    return {axis: counts[index(*axis)] for axis in axes if axis[1] is not FileArea.NONE}
