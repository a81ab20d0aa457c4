# SPDX-License-Identifier: Apache-2.0
"""TCP connect to a loopback receiver, IPv4 and IPv6.

``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_each

NUMBER = 1
NAME = "tcp"
RULES = ("socket_stream", "sock_create", "connect4", "connect6", "egress")
WALLS = ("seccomp", "namespaces", "landlock", "cgroup-bpf")
DELIVERS = True


def attempt(target: Target) -> Attempt:
    """Connect and send the token, once for each address family."""
    place = target.place(NAME)

    def send(address: str, port: int) -> None:
        with socket.create_connection((address, port), TIMEOUT_SECONDS) as made:
            made.sendall(target.token.encode())

    ways = {"IPv4": lambda: send("127.0.0.1", place["port4"])}
    if place["port6"]:
        ways["IPv6"] = lambda: send("::1", place["port6"])
    return try_each(ways)


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on a free port of 127.0.0.1 and, where the kernel has IPv6, of ::1."""
    four = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", listen=True)
    six = bound(socket.AF_INET6, socket.SOCK_STREAM, "::1", listen=True)
    place = {"port4": port_of(four), "port6": port_of(six)}
    with listening(place, listeners=[made for made in (four, six) if made]) as made:
        yield made
