# SPDX-License-Identifier: Apache-2.0
"""The token as the payload of an ICMP echo request: by a raw socket and by a ping socket.

Raw sockets need CAP_NET_RAW; ping sockets need a group in net.ipv4.ping_group_range (icmp(7)), which
many distributions open to everybody. ``attempt`` runs inside the sandbox, ``receiver`` outside (it needs
CAP_NET_RAW). Imports the standard library only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 6
NAME = "icmp"
RULES = ("socket_raw", "socket_datagram", "sock_create", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf", "users")
DELIVERS = True

ECHO_REQUEST = 8


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even or odd number of bytes."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack("!H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(payload: bytes) -> bytes:
    """Return an ICMP echo request (RFC 792) without the IP header."""
    head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, 0x6862, 1)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum(head + payload), 0x6862, 1) + payload


def attempt(target: Target) -> Attempt:
    """Send the token to 127.0.0.1 by both kinds of socket."""
    packet = echo(target.token.encode())

    def send(kind: int) -> None:
        with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as made:
            made.sendto(packet, ("127.0.0.1", 0))

    return try_each({"raw": lambda: send(socket.SOCK_RAW), "ping": lambda: send(socket.SOCK_DGRAM)})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Read every ICMP packet that reaches this network namespace; PermissionError without CAP_NET_RAW."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with listening({}, readers=[made]) as listener:
        yield listener
