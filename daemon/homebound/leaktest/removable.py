# SPDX-License-Identifier: Apache-2.0
"""Removable and other disks: mount one, or write to its node, so that it can be carried away.

``attempt`` runs inside the sandbox. The control begins a mount that is never attached, and opens nothing for
writing. Imports the standard library only. Source: mount(2), fsopen(2).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import mount_each, open_each
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 30
NAME = "removable"
RULES = ("namespace", "file_outside")
WALLS = ("users",)
DELIVERS = False

KINDS = ("vfat", "exfat", "ext4", "iso9660")
SHOWN = 4


def attempt(target: Target) -> Attempt:
    """Begin a mount of each kind, open each disk."""
    place = target.place(NAME)
    return try_each({**mount_each(place["kinds"]), **open_each(place["disks"])})


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name a kind that every kernel has for the control, and what may be on a stick for the sandbox."""
    nodes = [path for path in sorted(Path("/dev").iterdir()) if stat.S_ISBLK(path.stat().st_mode)]
    inside = {"kinds": ["tmpfs", *KINDS], "disks": [str(path) for path in nodes[:SHOWN]]}
    yield Deaf(place={"kinds": ["tmpfs"], "disks": [], "inside": inside})
