# SPDX-License-Identifier: Apache-2.0
"""Load and attach every kernel program for real, to an empty cgroup of its own, and take all of it away.

A program that parses may still not load on this kernel; only a try tells. Nothing on the host is touched
that a running daemon uses. May import: errors, kernel, rooms.walls.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import Any

from homebound.errors import PermissionMissing
from homebound.kernel import bpffs, cgroups, probes
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.job import Loader
from homebound.rooms.walls import OBJECTS


def attach_and_remove(enforce: bool = True, loader: Loader = "auto") -> list[dict[str, Any]]:
    """Each program with name, whether it attached, why not, and whether it is required or wanted.

    Raises PermissionMissing without root, HomeboundError when the kernel lacks what all of them need.
    """
    if os.geteuid() != 0:
        raise PermissionMissing(
            "kernel programs can be attached by root alone", "sudo homebound check-config --attach"
        )
    mount = cgroups.mount()
    name = f"homebound-check-{os.getpid()}"
    cgroup = Cgroup(mount / name, mount)
    with ExitStack() as stack:
        stack.callback(bpffs.hold().release)
        cgroup.make()
        try:
            loaded = probes.Probes.load(
                objects=OBJECTS,
                cgroup=cgroup.path,
                role_level=cgroup.level() + 1,
                enforce=enforce,
                pins=bpffs.FOLDER / name,
                loader=loader,
            )
            try:
                programs = loaded.programs()
            finally:
                loaded.remove()
        finally:
            cgroup.remove()
            with suppress(OSError):
                (bpffs.FOLDER / name).rmdir()
    return [
        {"name": entry.name, "attached": entry.attached, "reason": entry.reason, "need": entry.need}
        for entry in programs
    ]
