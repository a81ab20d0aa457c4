# SPDX-License-Identifier: Apache-2.0
"""What the threads of a role used, ended or alive, as bpf/resources.bpf.c adds it up; it needs no controller.

The sums grow when a thread ends, when one moves, and when somebody with the right has all of them looked at.
The mirror of bpf/include/resources.h, compared by tests/kernel/test_layout.py.
May import: events, kernel.bpf, kernel.maps.
Source: bpf(2), Documentation/bpf/bpf_iterators.rst, proc_pid_io(5), proc_pid_stat(5).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from homebound.events import Role
from homebound.kernel import bpf, maps

ITER_CREATE = 33
# A program that writes nothing is done with all threads in one read.
READ_BYTES = 64


@dataclass(frozen=True, slots=True)
class Resources:
    """Since load. ``run_queue_ns``: could run and had no processor. ``major_faults`` had to be read from a
    disk, ``minor_faults`` not. ``read_bytes``: from block devices; ``write_bytes``: made dirty, to be written
    to one. ``block_wait_ns``: for block devices to answer, while the sysctl kernel.task_delayacct is on."""

    run_queue_ns: int
    minor_faults: int
    major_faults: int
    read_bytes: int
    write_bytes: int
    block_wait_ns: int


class ResourcesRecord(ctypes.Structure):
    """struct hb_resources"""

    _fields_ = tuple((field.name, ctypes.c_uint64) for field in fields(Resources))


class _Iterate(ctypes.Structure):
    _fields_ = (("link", ctypes.c_uint32), ("flags", ctypes.c_uint32))


def look(link: int) -> None:
    """Look at every thread of the host now. ``link``: of hb_thread_live. Raises OSError."""
    reading = bpf.call(ITER_CREATE, _Iterate(link, 0))
    try:
        while os.read(reading, READ_BYTES):
            pass
    finally:
        os.close(reading)


def read(fd: int) -> Mapping[Role, Resources]:
    """Every role's sums, as of the last look. What this kernel does not count is 0: kernel.features knows."""
    return {role: Resources(*words) for role, words in maps.read_words(fd, Role).items()}
