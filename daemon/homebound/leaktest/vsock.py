# SPDX-License-Identifier: Apache-2.0
"""A socket of AF_VSOCK (vsock(7)), which leads from a virtual machine to its host past every network.

Only the creation is tried: nothing is ever bound, connected or sent. So there is no receiver, and the
attempt's own word decides. Network namespaces do not hold it. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 9
NAME = "vsock"
RULES = ("socket_vsock",)
WALLS = ("seccomp",)
DELIVERS = False


def attempt(_target: Target) -> Attempt:
    """Create the socket, once for each kind, and close it."""

    def create(kind: int) -> None:
        socket.socket(socket.AF_VSOCK, kind).close()

    return try_each(
        {"stream": lambda: create(socket.SOCK_STREAM), "datagram": lambda: create(socket.SOCK_DGRAM)}
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Give a receiver that hears nothing."""
    yield Deaf(place={})
