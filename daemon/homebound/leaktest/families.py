# SPDX-License-Identifier: Apache-2.0
"""Every other family of sockets: Bluetooth, CAN, NFC, TIPC, QRTR, XDP, SMC, InfiniBand, and what may come.

Creation alone is tried: what cannot be made cannot send. A family that is not loaded is loaded by asking
for it, so the control asks only for those that are there. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, errno_name, try_many

NUMBER = 10
NAME = "families"
RULES = ("socket_other",)
WALLS = ("seccomp",)
DELIVERS = False

# Rows of their own: UNIX, INET, INET6, KEY, NETLINK, PACKET, ALG, VSOCK.
ELSEWHERE = frozenset({1, 2, 10, 15, 16, 17, 38, 40})
FAMILIES_MAX = 64  # Linux 6.18 has 46 (AF_MAX in linux/socket.h)
KINDS = (socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
# Families by the names of their protocols in /proc/net/protocols, where more is registered than these.
REGISTERED: Mapping[str, int] = {
    "AX25": 3, "IPX": 4, "X25": 9, "RDS": 21, "PPPOX": 24, "LLC": 26, "CAN_RAW": 29, "CAN_BCM": 29,
    "TIPC": 30, "HCI": 31, "L2CAP": 31, "RXRPC": 33, "PHONET": 35, "IEEE-802.15.4-MAC": 36, "CAIF": 37,
    "NFC": 39, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "XDP": 44, "MCTP": 45,
}  # fmt: skip


def attempt(target: Target) -> Attempt:
    """Create a socket of each family, of the kind that it has."""

    def way(family: int) -> Callable[[], None]:
        return lambda: create(family)

    return try_many({str(family): way(family) for family in target.place(NAME)["families"]})


def create(family: int) -> None:
    """Create and close a socket of any kind; OSError of the last kind, or of a refusal, when none can be
    had."""
    refusal: OSError | None = None
    for kind in KINDS:
        try:
            socket.socket(family, kind).close()
            return
        except OSError as error:
            refusal = refusal or (error if errno_name(error) in ("EPERM", "EACCES") else None)
            last = error
    raise refusal or last


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name all families for the sandbox, and those that are loaded for the control."""
    lines = Path("/proc/net/protocols").read_text(encoding="ascii").splitlines()[1:]
    loaded = {REGISTERED[name] for line in lines if (name := line.split()[0]) in REGISTERED}
    every = [family for family in range(1, FAMILIES_MAX) if family not in ELSEWHERE]
    yield Deaf(place={"families": sorted(loaded), "inside": {"families": every}})
