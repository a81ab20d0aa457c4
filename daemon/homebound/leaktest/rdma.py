# SPDX-License-Identifier: Apache-2.0
"""RDMA: a network card that reads memory by itself, past sockets and kernel, through its verbs nodes.

Opening the node is tried. ``attempt`` runs inside the sandbox. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import open_each, place, present
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 34
NAME = "rdma"
RULES = ("file_outside",)
WALLS = ("namespaces", "landlock", "users")
DELIVERS = False

NODES = ("/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm", "/dev/infiniband/umad0", "/dev/hfi1_0")


def attempt(target: Target) -> Attempt:
    """Open each node."""
    return try_each(open_each(target.place(NAME)["paths"]))


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name those that this host has; OSError when it has none."""
    yield Deaf(place=place(present(["infiniband/uverbs*", "hfi1_*"]), NODES, "RDMA device"))
