# SPDX-License-Identifier: Apache-2.0
"""Calls of another architecture: int 0x80 and x32, whose numbers a filter may read with the wrong table.

A socket is created by machine code in a child, which a filter may kill for it. Nothing is sent.
``attempt`` runs inside the sandbox. Imports the standard library only. Source: seccomp(2), x86 entry code.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, in_child, system_call, try_each

NUMBER = 13
NAME = "foreign_abi"
RULES = ("socket_other", "socket_stream", "sock_create")
WALLS = ("seccomp", "cgroup-bpf")
DELIVERS = False

MACHINE = "x86_64"  # elsewhere a 64-bit process has no second door
I386_SOCKETCALL, I386_SOCKET = 102, 359
X32 = 0x40000000
SYS_SOCKET = 41
MAP_32BIT = 0x40
SOCKETCALL_SOCKET = 1  # linux/net.h
# push rbx; mov eax, NUMBER; mov ebx, FIRST; mov ecx, SECOND; xor edx, edx; int 0x80; pop rbx; ret
CODE = struct.Struct("<1s1sI1sI1sI6s")


def attempt(_target: Target) -> Attempt:
    """Create a TCP socket by the 32-bit socket and socketcall, and by the x32 number."""
    return try_each(
        {
            "int 0x80": lambda: in_child(lambda: interrupt(I386_SOCKET, socket.AF_INET, socket.SOCK_STREAM)),
            "socketcall": lambda: in_child(socketcall),
            "x32": lambda: in_child(x32),
        }
    )


def interrupt(number: int, first: int, second: int) -> None:
    """Make a 32-bit system call with two arguments; OSError when it fails or there is no such door."""
    if os.uname().machine != MACHINE:
        raise OSError(errno.ENOSYS, f"no second door on {os.uname().machine}")
    code = CODE.pack(b"\x53", b"\xb8", number, b"\xbb", first, b"\xb9", second, b"\x31\xd2\xcd\x80\x5b\xc3")
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    entry = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(entry)()
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def socketcall() -> None:
    """The old way by one call for all: its arguments lie in memory that 32 bits can name."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT)
    memory.write(struct.pack("<3I", socket.AF_INET, socket.SOCK_STREAM, 0))
    interrupt(I386_SOCKETCALL, SOCKETCALL_SOCKET, ctypes.addressof(ctypes.c_char.from_buffer(memory)))


def x32() -> None:
    """The same number with the bit that marks the x32 table."""
    if os.uname().machine != MACHINE:
        raise OSError(errno.ENOSYS, f"no second door on {os.uname().machine}")
    arguments = (ctypes.c_long(socket.AF_INET), ctypes.c_long(socket.SOCK_STREAM), ctypes.c_long(0))
    system_call(X32 | SYS_SOCKET, *arguments)


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Give a receiver that hears nothing."""
    yield Deaf(place={})
