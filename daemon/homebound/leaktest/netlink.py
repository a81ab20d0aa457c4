# SPDX-License-Identifier: Apache-2.0
"""Sockets that speak with the kernel: netlink, which also reaches other processes, AF_ALG and AF_KEY.

The token goes to another process by NETLINK_USERSOCK (netlink(7)); the other two are only created.
``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 11
NAME = "netlink"
RULES = ("socket_netlink", "socket_other")
WALLS = ("seccomp",)
DELIVERS = True

NETLINK_USERSOCK = 2  # linux/netlink.h
AF_KEY = 15
PF_KEY_V2 = 2
ROUTE_ADDRESSES = b"\x10\0\0\0\x16\0\x01\3\0\0\0\0\0\0\0\0"  # RTM_GETADDR, a dump, as rtnetlink(7) has it


def attempt(target: Target) -> Attempt:
    """Send the token to the receiver's port, ask the kernel for its addresses, and create the other two."""
    port = target.place(NAME)["port"]

    def send() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK) as made:
            made.sendto(target.token.encode(), (port, 0))

    def ask() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as made:
            made.sendto(ROUTE_ADDRESSES, (0, 0))

    def create(family: int, kind: int, protocol: int) -> None:
        socket.socket(family, kind, protocol).close()

    return try_each(
        {
            "to a process": send,
            "route": ask,
            "ALG": lambda: create(socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
            "KEY": lambda: create(AF_KEY, socket.SOCK_RAW, PF_KEY_V2),
        }
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on a netlink port of our own."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK)
    made.bind((0, 0))
    with listening({"port": made.getsockname()[0]}, readers=[made]) as heard:
        yield heard
