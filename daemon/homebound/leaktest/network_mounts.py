# SPDX-License-Identifier: Apache-2.0
"""Network file systems and FUSE: what is written there leaves by a kernel thread or another process.

Beginning a mount and opening the FUSE node are tried. Whether the data folder itself lies on such a file
system is the doctor's to say. ``attempt`` runs inside the sandbox. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import mount_each, open_each, place, present, registered
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 31
NAME = "network_mounts"
RULES = ("namespace", "file_outside")
WALLS = ("users",)
DELIVERS = False

KINDS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "virtiofs", "fuse")
NODES = ("/dev/fuse", "/dev/cuse")


def attempt(target: Target) -> Attempt:
    """Open the node, and begin a mount of each kind."""
    here = target.place(NAME)
    return try_each({**open_each(here["paths"]), **mount_each(here["kinds"])})


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name what is loaded for the control, all kinds for the sandbox; OSError when there is no FUSE."""
    made = dict(place(present(["fuse"]), NODES, "FUSE device"))
    inside = {**made["inside"], "kinds": KINDS}  # type: ignore[dict-item]
    yield Deaf(place={**made, "kinds": registered(KINDS), "inside": inside})
