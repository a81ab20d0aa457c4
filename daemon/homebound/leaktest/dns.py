# SPDX-License-Identifier: Apache-2.0
"""A DNS query, built by hand, that carries the token as a label of the name (RFC 1035, 4.1).

A resolver passes such a name on to the owner of the domain, so that it leaves even where no route does.
``attempt`` runs inside the sandbox, ``receiver`` plays the resolver outside. Standard library only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import Attempt, Target, try_each
from homebound.leaktest.udp import send_connected, send_unconnected

NUMBER = 17
NAME = "dns"
RULES = ("socket_datagram", "sock_create", "sendmsg4", "connect4", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

RECURSION_DESIRED = 0x0100
TYPE_A = 1
CLASS_IN = 1


def query(token: str) -> bytes:
    """Return a query for the address of TOKEN.leak.invalid; ValueError when a label exceeds 63 bytes."""
    name = b""
    for label in (token, "leak", "invalid"):
        if not 0 < len(label) <= 63:
            raise ValueError("a label has 1 to 63 bytes (RFC 1035, 2.3.4)")
        name += bytes([len(label)]) + label.encode("ascii")
    header = struct.pack("!6H", 0x6862, RECURSION_DESIRED, 1, 0, 0, 0)
    return header + name + b"\0" + struct.pack("!2H", TYPE_A, CLASS_IN)


def attempt(target: Target) -> Attempt:
    """Ask the resolver as a stub resolver does: connected, and unconnected as older ones do."""
    address = ("127.0.0.1", target.place(NAME)["port"])
    data = query(target.token)
    return try_each(
        {
            "unconnected": lambda: send_unconnected(socket.AF_INET, address, data),
            "connected": lambda: send_connected(socket.AF_INET, address, data),
        }
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen for queries on a free port of 127.0.0.1; nothing is answered."""
    made = bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1")
    with listening({"port": port_of(made)}, readers=[made] if made else []) as resolver:
        yield resolver
