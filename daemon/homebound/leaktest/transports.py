# SPDX-License-Identifier: Apache-2.0
"""Transports beside TCP and UDP: MPTCP, SCTP, DCCP and UDP-Lite, which filters by protocol tend to forget.

``attempt`` runs inside the sandbox, ``receiver`` outside; it takes what this kernel has. Imports the standard
library only. Source: mptcp(7), sctp(7), udplite(7), RFC 8684.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_each
from homebound.leaktest.udp import expect_no_refusal

NUMBER = 5
NAME = "transports"
RULES = ("socket_stream", "socket_datagram", "socket_other", "sock_create", "connect4", "sendmsg4", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

SOCK_DCCP = 6  # linux/net.h
# Socket type and IP protocol of each.
TRANSPORTS: Mapping[str, tuple[int, int]] = {
    "MPTCP": (socket.SOCK_STREAM, 262),
    "SCTP": (socket.SOCK_STREAM, 132),
    "DCCP": (SOCK_DCCP, 33),
    "UDP-Lite": (socket.SOCK_DGRAM, 136),
}


def attempt(target: Target) -> Attempt:
    """Connect and send the token by each transport that the receiver has."""
    ports = target.place(NAME)["ports"]

    def way(name: str) -> Callable[[], None]:
        kind, protocol = TRANSPORTS[name]

        def send() -> None:
            with socket.socket(socket.AF_INET, kind, protocol) as made:
                made.settimeout(TIMEOUT_SECONDS)
                made.connect(("127.0.0.1", ports[name]))
                made.sendall(target.token.encode())
                if kind == socket.SOCK_DGRAM:
                    expect_no_refusal(made)

        return send

    return try_each({name: way(name) for name in ports})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen by each transport of this kernel; OSError when it has none of them."""
    made = {}
    for name, (kind, protocol) in TRANSPORTS.items():
        listener = bound(socket.AF_INET, kind, "127.0.0.1", kind != socket.SOCK_DGRAM, protocol)
        if listener:
            made[name] = listener
    if not made:
        raise OSError(errno.EPROTONOSUPPORT, "this kernel has no transport beside TCP and UDP")
    streams = [each for name, each in made.items() if TRANSPORTS[name][0] != socket.SOCK_DGRAM]
    datagrams = [each for each in made.values() if each not in streams]
    place = {"ports": {name: port_of(each) for name, each in made.items()}}
    with listening(place, listeners=streams, readers=datagrams) as heard:
        yield heard
