# SPDX-License-Identifier: Apache-2.0
"""Load and attach every kernel program for real, to an empty cgroup of its own, and take all of it away.

A program that parses may still not load on this kernel; only a try tells. Nothing on the host is touched
that a running daemon uses. May import: errors, kernel, settings, walls.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from homebound.errors import PermissionMissing
from homebound.instance import BPF_FILE_SYSTEM
from homebound.kernel import cgroups, probes
from homebound.kernel.cgroups import Cgroup
from homebound.settings import Settings
from homebound.walls import OBJECTS


def attach_and_remove(settings: Settings) -> list[dict[str, Any]]:
    """Each program with name, whether it attached, and why not.

    Raises PermissionMissing without root, HomeboundError when the kernel lacks what all of them need.
    """
    if os.geteuid() != 0:
        raise PermissionMissing(
            "kernel programs can be attached by root alone", "sudo homebound check-config --attach"
        )
    mount = cgroups.mount()
    name = f"homebound-check-{os.getpid()}"
    cgroup = Cgroup(mount / name, mount)
    with _bpf_file_system():
        cgroup.make()
        try:
            loaded = probes.Probes.load(
                objects=OBJECTS,
                cgroup=cgroup.path,
                role_level=cgroup.level() + 1,
                enforce=settings.mode == "enforce",
                pins=BPF_FILE_SYSTEM / name,
            )
            try:
                programs = loaded.programs()
            finally:
                loaded.remove()
        finally:
            cgroup.remove()
            with suppress(OSError):
                (BPF_FILE_SYSTEM / name).rmdir()
    return [{"name": entry.name, "attached": entry.attached, "reason": entry.reason} for entry in programs]


@contextmanager
def _bpf_file_system() -> Iterator[None]:
    """Mounted while this runs, if nobody else has it mounted."""
    if os.path.ismount(BPF_FILE_SYSTEM):
        yield
        return
    done = subprocess.run(
        ["mount", "-t", "bpf", "bpf", str(BPF_FILE_SYSTEM)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PermissionMissing(
            f"the BPF file system cannot be mounted: {done.stderr.strip()}",
            "run this as root on the host itself",
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(BPF_FILE_SYSTEM)], check=False)
