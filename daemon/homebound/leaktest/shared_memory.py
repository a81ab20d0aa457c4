# SPDX-License-Identifier: Apache-2.0
"""Memory and queues with a name: /dev/shm, System V shared memory and messages, POSIX message queues.

``attempt`` runs inside the sandbox, ``receiver`` makes one of each outside, open to everybody. Imports the
standard library only. Source: shmget(2), msgget(2), mq_overview(7), ipc_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebound.leaktest.target import Attempt, Target, library_call, try_each

NUMBER = 37
NAME = "shared_memory"
RULES = ("kernel", "file_outside")
WALLS = ("namespaces",)
DELIVERS = True

SEGMENT_BYTES = 4096
IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_NOWAIT = 0o1000, 0o2000, 0, 0o4000  # linux/ipc.h
MESSAGE_BYTES = 64
FAILED = ctypes.c_void_p(-1).value


class _Message(ctypes.Structure):
    """struct msgbuf."""

    _fields_ = (("kind", ctypes.c_long), ("text", ctypes.c_char * MESSAGE_BYTES))


def attempt(target: Target) -> Attempt:
    """Write the token into each."""
    place, data = target.place(NAME), target.token.encode()

    def write_file() -> None:
        fd = os.open(place["file"], os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def write_segment() -> None:
        segment = library_call("shmget", ctypes.c_int(place["key"]), ctypes.c_size_t(0), ctypes.c_int(0))
        with attached(segment) as address:
            ctypes.memmove(address, data, len(data))

    def send() -> None:
        queue = library_call("msgget", ctypes.c_int(place["key"]), ctypes.c_int(0))
        message = _Message(1, data)
        size = ctypes.c_size_t(len(data))
        library_call("msgsnd", ctypes.c_int(queue), ctypes.byref(message), size, ctypes.c_int(IPC_NOWAIT))

    return try_each({"shm": write_segment, "messages": send, "/dev/shm": write_file})


@contextmanager
def attached(segment: int) -> Iterator[int]:
    """The address of a System V segment for the length of a block."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(ctypes.c_int(segment), None, ctypes.c_int(0))
    if address is None or address == FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield address
    finally:
        libc.shmdt(ctypes.c_void_p(address))


@dataclass(frozen=True)
class Shared:
    """The three places, looked at when asked."""

    place: Mapping[str, Any]
    segment: int
    queue: int

    def holds(self, token: str, wait_seconds: float = 0.0, /) -> bool:
        """Say whether the token lies in one of them."""
        end = time.monotonic() + wait_seconds
        while not self._found(token.encode()):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def _found(self, wanted: bytes) -> bool:
        with attached(self.segment) as address:
            if wanted in ctypes.string_at(address, SEGMENT_BYTES):
                return True
        return wanted in Path(self.place["file"]).read_bytes() or wanted in self._messages()

    def _messages(self) -> bytes:
        got = b""
        message = _Message()
        with suppress(OSError):  # none is left
            while True:
                library_call(
                    *("msgrcv", ctypes.c_int(self.queue), ctypes.byref(message)),
                    *(ctypes.c_size_t(MESSAGE_BYTES), ctypes.c_long(0), ctypes.c_int(IPC_NOWAIT)),
                )
                got += message.text
        return got


@contextmanager
def receiver(_folder: Path) -> Iterator[Shared]:
    """Make them under a name that nobody else has; removed after the block."""
    key = int.from_bytes(os.urandom(3), "big") + 1
    flags = ctypes.c_int(IPC_CREAT | IPC_EXCL | 0o666)
    path = Path("/dev/shm", f"homebound-leak-{key}")
    path.touch()
    try:
        path.chmod(0o666)
        segment = library_call("shmget", ctypes.c_int(key), ctypes.c_size_t(SEGMENT_BYTES), flags)
        queue = library_call("msgget", ctypes.c_int(key), flags)
        try:
            yield Shared({"key": key, "file": str(path)}, segment, queue)
        finally:
            library_call("shmctl", ctypes.c_int(segment), ctypes.c_int(IPC_RMID), None)
            library_call("msgctl", ctypes.c_int(queue), ctypes.c_int(IPC_RMID), None)
    finally:
        path.unlink()
