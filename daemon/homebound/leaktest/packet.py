# SPDX-License-Identifier: Apache-2.0
"""A whole Ethernet frame by a packet socket (packet(7)): below IP, so no IP filter sees it.

Uses the EtherType for local experiments (IEEE 802, 0x88B5) on the loopback device. ``attempt`` runs
inside the sandbox, ``receiver`` outside; both need CAP_NET_RAW. Imports the standard library only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 8
NAME = "packet"
RULES = ("socket_packet",)
WALLS = ("seccomp", "namespaces", "users")
DELIVERS = True

ETHERTYPE = 0x88B5
DEVICE = "lo"


def attempt(target: Target) -> Attempt:
    """Send the token in a frame of our own, then with the header made by the kernel."""
    data = target.token.encode()

    def frame() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
            made.bind((DEVICE, 0))
            made.send(b"\0" * 12 + struct.pack("!H", ETHERTYPE) + data)

    def cooked() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as made:
            made.sendto(data, (DEVICE, ETHERTYPE, 0, 0, b"\0" * 6))

    return try_each({"raw": frame, "cooked": cooked})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Read the frames of our EtherType on the loopback device; PermissionError without CAP_NET_RAW."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE))
    made.bind((DEVICE, ETHERTYPE))
    with listening({}, readers=[made]) as listener:
        yield listener
