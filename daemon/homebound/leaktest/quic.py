# SPDX-License-Identifier: Apache-2.0
"""What a QUIC stack does (RFC 9000): UDP by sendmsg(2), two segments in one call, the token in an Initial.

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
from homebound.leaktest.udp import IP_RECVERR, expect_no_refusal

NUMBER = 4
NAME = "quic"
RULES = ("socket_datagram", "sock_create", "connect4", "sendmsg4", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

UDP_SEGMENT = 103  # linux/udp.h, since 4.18
# An Initial packet fills at least this much (RFC 9000, 14.1).
DATAGRAM_BYTES = 1200


def initial(payload: bytes) -> bytes:
    """A long header of version 1 (RFC 9000, 17.2.2) with no connection ids, the payload, and padding."""
    if len(payload) > DATAGRAM_BYTES - 16:
        raise ValueError("the payload does not fit into one datagram")
    head = b"\xc0" + struct.pack("!I", 1) + b"\0\0\0"
    return (head + payload).ljust(DATAGRAM_BYTES, b"\0")


def attempt(target: Target) -> Attempt:
    """Send two Initials at once, unconnected and connected."""
    address = ("127.0.0.1", target.place(NAME)["port"])
    data = initial(target.token.encode()) * 2
    segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))]

    def send(connected: bool) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            if connected:
                made.connect(address)
            made.sendmsg([data], segments, 0, *([] if connected else [address]))
            expect_no_refusal(made)

    return try_each({"unconnected": lambda: send(False), "connected": lambda: send(True)})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on a free port of 127.0.0.1."""
    made = bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1")
    with listening({"port": port_of(made)}, readers=[made] if made else []) as heard:
        yield heard
