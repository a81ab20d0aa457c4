# SPDX-License-Identifier: Apache-2.0
"""For the doctor: what a package or an administrator lays ready on a host, and what is done without it.

May import: cli.loaderchecks (its Found), kernel.bpffs, rooms.users.
Source: sysusers.d(5), systemd.unit(5) (ConditionPathIsMountPoint=), mount(8).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from homebound.cli.loaderchecks import Found
from homebound.kernel import bpffs
from homebound.rooms import users

MOUNT = "mount -t bpf bpf /sys/fs/bpf"
USERS = "systemd-sysusers homebound.conf, or adduser --system for each"


def look(roles: Sequence[str], pins: Path = bpffs.FOLDER) -> Iterator[Found]:
    """``roles``: the labels of those that are not root."""
    mounted = os.path.ismount(pins)
    # A daemon that is started by hand mounts it; the service, whose mounts are its own, is passed over.
    fact = f"mounted at {pins}" if mounted else "not mounted: systemd passes the service over"
    yield Found("bpf file system", False, mounted, fact, MOUNT)
    missing = [role for role in roles if not users.exists(f"homebound-{role}")]
    fact = f"no homebound-{', homebound-'.join(missing)}" if missing else "each role has one"
    yield Found("users", False, not missing, f"{fact}; numbers are used" if missing else fact, USERS)
