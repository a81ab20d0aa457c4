# SPDX-License-Identifier: Apache-2.0
"""TCP Fast Open (RFC 7413): bytes go with the SYN by sendto(2), past any hook that waits for connect(2).

``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 2
NAME = "fastopen"
RULES = ("socket_stream", "sock_create", "connect4", "connect6", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

MSG_FASTOPEN = 0x20000000  # linux/socket.h
QUEUE = 8
TIMEOUT_SECONDS = 1


def attempt(target: Target) -> Attempt:
    """Send the token with the connection request, once for each address family."""
    place = target.place(NAME)

    def send(family: int, address: str, port: int) -> None:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            # A timeout of Python's would make the socket non-blocking, and the connection be left half done.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@2l", TIMEOUT_SECONDS, 0))
            made.sendto(target.token.encode(), MSG_FASTOPEN, (address, port))

    ways = {"IPv4": lambda: send(socket.AF_INET, "127.0.0.1", place["port4"])}
    if place["port6"]:
        ways["IPv6"] = lambda: send(socket.AF_INET6, "::1", place["port6"])
    return try_each(ways)


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on free ports of 127.0.0.1 and ::1, ready for data in the first packet where the kernel is."""
    four = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", listen=True)
    six = bound(socket.AF_INET6, socket.SOCK_STREAM, "::1", listen=True)
    made = [listener for listener in (four, six) if listener]
    for listener in made:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, QUEUE)
    with listening({"port4": port_of(four), "port6": port_of(six)}, listeners=made) as heard:
        yield heard
