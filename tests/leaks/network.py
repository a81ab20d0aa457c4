# SPDX-License-Identifier: Apache-2.0
"""A fresh network namespace for the calling thread and the children that it starts."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


@contextmanager
def fresh_network() -> Iterator[None]:
    """Move this thread into an empty namespace whose loopback is up, and back; sockets made in it stay in it.

    Ping sockets are open to root there, as many distributions have it for everybody (icmp(7)).
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked("unshare", CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            fcntl.ioctl(made, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
        yield
    finally:
        _checked("setns", home, CLONE_NEWNET)
        os.close(home)


def _checked(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
