# SPDX-License-Identifier: Apache-2.0
"""A network of one's own making: tun and tap devices and vhost, by which packets leave beside every socket.

Opening the node is tried. ``attempt`` runs inside the sandbox. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import open_each, place, present
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 33
NAME = "tun"
RULES = ("file_outside",)
WALLS = ("namespaces", "landlock", "users")
DELIVERS = False

NODES = ("/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock")


def attempt(target: Target) -> Attempt:
    """Open each node."""
    return try_each(open_each(target.place(NAME)["paths"]))


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name those that this host has; OSError when it has none."""
    yield Deaf(place=place(present(path.removeprefix("/dev/") for path in NODES), NODES, "tun device"))
