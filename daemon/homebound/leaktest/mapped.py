# SPDX-License-Identifier: Apache-2.0
"""IPv4 reached through an IPv6 socket by its mapped address, ::ffff:127.0.0.1, TCP and UDP.

A filter for one family only misses it: connect(2) on such a socket passes the IPv6 hook of a cgroup and
the packets are IPv4. ``attempt`` runs inside the sandbox, ``receiver`` outside. Standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_each
from homebound.leaktest.udp import send_connected, send_unconnected

NUMBER = 7
NAME = "mapped"
RULES = (
    *("socket_stream", "socket_datagram", "sock_create", "connect6", "connect4", "sendmsg6", "sendmsg4"),
    "egress",
)
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

ADDRESS = "::ffff:127.0.0.1"


def attempt(target: Target) -> Attempt:
    """Send the token by TCP and by UDP, unconnected and connected."""
    place = target.place(NAME)
    data = target.token.encode()
    datagrams = (ADDRESS, place["udp"])

    def stream() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as made:
            made.settimeout(TIMEOUT_SECONDS)
            made.connect((ADDRESS, place["tcp"]))
            made.sendall(data)

    return try_each(
        {
            "TCP": stream,
            "UDP unconnected": lambda: send_unconnected(socket.AF_INET6, datagrams, data),
            "UDP connected": lambda: send_connected(socket.AF_INET6, datagrams, data),
        }
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on IPv4 only, so that what arrives came as IPv4."""
    stream = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", listen=True)
    datagram = bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1")
    place = {"tcp": port_of(stream), "udp": port_of(datagram)}
    listeners = [stream] if stream else []
    with listening(place, listeners=listeners, readers=[datagram] if datagram else []) as made:
        yield made
