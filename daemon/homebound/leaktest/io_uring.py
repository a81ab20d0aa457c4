# SPDX-License-Identifier: Apache-2.0
"""TCP by io_uring(7): socket, connect and send as operations of a ring, past any filter of those calls.

``attempt`` runs inside the sandbox, ``receiver`` is that of TCP on IPv4. Imports the standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import Attempt, Target, system_call, try_each

NUMBER = 12
NAME = "io_uring"
RULES = ("io_uring", "sock_create", "connect4", "egress")
WALLS = ("seccomp", "namespaces", "landlock", "cgroup-bpf")
DELIVERS = True

# The same numbers on every architecture (since Linux 5.1 new calls share one table).
IO_URING_SETUP = 425
IO_URING_ENTER = 426
ENTER_GETEVENTS = 1
OFFSET_SUBMISSIONS = 0
OFFSET_COMPLETIONS = 0x8000000
OFFSET_ENTRIES = 0x10000000
CONNECT = 16  # IORING_OP_*, linux/io_uring.h
SEND = 26
SOCKET = 45
ENTRY_BYTES = 64
PARAMS_BYTES = 120
SUBMISSION_FIELDS = ("head", "tail", "mask", "entries", "flags", "dropped", "array")
COMPLETION_FIELDS = ("head", "tail", "mask", "entries", "overflow", "cqes")


class Ring:
    """A ring of one entry at a time; ``run`` submits it and waits for its result."""

    def __init__(self) -> None:
        params = (ctypes.c_char * PARAMS_BYTES)()
        self.fd = system_call(IO_URING_SETUP, ctypes.c_uint(1), params)
        # struct io_uring_params: ten u32, then the offsets of the two rings, ten u32 each.
        numbers = struct.unpack("=30I", params.raw)
        self._sq = dict(zip(SUBMISSION_FIELDS, numbers[10:17], strict=True))
        self._cq = dict(zip(COMPLETION_FIELDS, numbers[20:26], strict=True))
        submissions = self._sq["array"] + 4 * numbers[0]
        completions = self._cq["cqes"] + 16 * numbers[1]
        self._submissions = mmap.mmap(self.fd, submissions, offset=OFFSET_SUBMISSIONS)
        self._completions = mmap.mmap(self.fd, completions, offset=OFFSET_COMPLETIONS)
        self._entries = mmap.mmap(self.fd, ENTRY_BYTES * numbers[0], offset=OFFSET_ENTRIES)

    def run(self, operation: int, fd: int, offset: int, address: int, length: int) -> int:
        """Submit one operation (fields of struct io_uring_sqe) and return its result; OSError on failure."""
        entry = struct.pack("=BBHiQQI36x", operation, 0, 0, fd, offset, address, length)
        self._entries[:ENTRY_BYTES] = entry
        struct.pack_into("=I", self._submissions, self._sq["array"], 0)
        (tail,) = struct.unpack_from("=I", self._submissions, self._sq["tail"])
        struct.pack_into("=I", self._submissions, self._sq["tail"], tail + 1)
        one = ctypes.c_uint(1)
        system_call(
            IO_URING_ENTER,
            *(ctypes.c_uint(self.fd), one, one, ctypes.c_uint(ENTER_GETEVENTS)),
            *(ctypes.c_void_p(None), ctypes.c_size_t(0)),
        )
        (head,) = struct.unpack_from("=I", self._completions, self._cq["head"])
        (mask,) = struct.unpack_from("=I", self._completions, self._cq["mask"])
        at = self._cq["cqes"] + 16 * (head & mask)
        _, result, _ = struct.unpack_from("=QiI", self._completions, at)
        struct.pack_into("=I", self._completions, self._cq["head"], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return int(result)

    def close(self) -> None:
        """Unmap and close."""
        for mapped in (self._submissions, self._completions, self._entries):
            mapped.close()
        os.close(self.fd)


def attempt(target: Target) -> Attempt:
    """Make a ring and send the token through it."""
    port = target.place(NAME)["port"]

    def send() -> None:
        ring = Ring()
        try:
            send_through(ring, port, target.token.encode())
        finally:
            ring.close()

    return try_each({"ring": send})


def send_through(ring: Ring, port: int, token: bytes) -> None:
    """Make, connect and write a socket without a socket call where the kernel can (SOCKET: since 5.19)."""
    try:
        # Domain, type and protocol lie in fd, offset and length.
        fd = ring.run(SOCKET, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    except OSError:
        fd = socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()
    try:
        # struct sockaddr_in: the family in the machine's byte order, the rest in the network's.
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4B8x", port, 127, 0, 0, 1)
        name = ctypes.create_string_buffer(address, len(address))
        data = ctypes.create_string_buffer(token, len(token))
        ring.run(CONNECT, fd, len(address), ctypes.addressof(name), 0)
        ring.run(SEND, fd, 0, ctypes.addressof(data), len(token))
    finally:
        os.close(fd)


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen for TCP on a free port of 127.0.0.1."""
    made = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", listen=True)
    with listening({"port": port_of(made)}, listeners=[made] if made else []) as listener:
        yield listener
