# SPDX-License-Identifier: Apache-2.0
"""Another process as the way out: its memory and its descriptors, by ptrace, pidfd_getfd and /proc.

``attempt`` runs inside the sandbox against a process that the receiver started outside. Imports the standard
library only. Source: ptrace(2), process_vm_readv(2), pidfd_getfd(2), proc_pid_mem(5).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.target import Attempt, Target, library_call, system_call, try_each
from homebound.leaktest.victim import Victim, victim

NUMBER = 16
NAME = "trace"
RULES = ("trace",)
WALLS = ("namespaces", "users")
DELIVERS = True

PIDFD_GETFD = 438  # on every architecture
PTRACE_POKEDATA, PTRACE_ATTACH, PTRACE_DETACH = 5, 16, 17


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def attempt(target: Target) -> Attempt:
    """Take the victim's pipe and write to it, then write into its memory by each door."""
    place = target.place(NAME)
    pid, address, data = place["pid"], place["address"], target.token.encode()

    def take_descriptor() -> None:
        holder = os.pidfd_open(pid)
        try:
            fd = system_call(
                PIDFD_GETFD, ctypes.c_int(holder), ctypes.c_int(place["victim_fd"]), ctypes.c_uint(0)
            )
        finally:
            os.close(holder)
        os.write(fd, data)
        os.close(fd)

    def write_memory() -> None:
        source = ctypes.create_string_buffer(data, len(data))
        ours = _Vector(ctypes.addressof(source), len(data))
        theirs = _Vector(address, len(data))
        one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
        library_call(
            "process_vm_writev", ctypes.c_int(pid), ctypes.byref(ours), one, ctypes.byref(theirs), one, none
        )

    def write_file() -> None:
        fd = os.open(f"/proc/{pid}/mem", os.O_WRONLY)
        try:
            os.pwrite(fd, data, address)
        finally:
            os.close(fd)

    return try_each(
        {
            "pidfd_getfd": take_descriptor,
            "process_vm_writev": write_memory,
            "ptrace": lambda: poke(pid, address, data),
            "/proc/PID/mem": write_file,
        }
    )


def poke(pid: int, address: int, data: bytes) -> None:
    """Stop a process, write a word after the other into its memory, let it run."""
    trace(PTRACE_ATTACH, pid, 0, 0)
    try:
        os.waitpid(pid, 0)
        for at in range(0, len(data), ctypes.sizeof(ctypes.c_long)):
            word = int.from_bytes(data[at : at + ctypes.sizeof(ctypes.c_long)], "little")
            trace(PTRACE_POKEDATA, pid, address + at, word)
    finally:
        trace(PTRACE_DETACH, pid, 0, 0)


def trace(request: int, pid: int, address: int, data: int) -> None:
    """Call ptrace(2)."""
    library_call(
        "ptrace", ctypes.c_long(request), ctypes.c_int(pid), ctypes.c_void_p(address), ctypes.c_void_p(data)
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Victim]:
    """Start a process of the caller's user, which has all its rights."""
    with victim() as made:
        yield made
