# SPDX-License-Identifier: Apache-2.0
"""A disk behind a folder: what is written goes out with the write-back of nbd, iSCSI, NVMe-oF or DRBD.

So no folder that a disk backs may be writable. The attempt tries every mount that it sees, with a file that
has no name. ``attempt`` runs inside the sandbox. Imports the standard library only. Source:
proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import make_in_each
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_many

NUMBER = 32
NAME = "disk"
RULES = ("file_outside",)
WALLS = ("namespaces", "landlock", "users")
DELIVERS = False

IN_MEMORY = frozenset(
    "tmpfs ramfs proc sysfs devtmpfs devpts mqueue cgroup cgroup2 bpf debugfs tracefs securityfs".split()
)


def attempt(target: Target) -> Attempt:
    """Make a file on each."""
    return try_many(make_in_each(target.place(NAME)["folders"] or mounts()))


def mounts() -> list[str]:
    """The folders that a disk is mounted on, as this process sees them."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        folder = Path(left.split(" ")[4].encode().decode("unicode_escape"))
        if right.split(" ")[0] not in IN_MEMORY and folder.is_dir():
            found.append(str(folder))
    return found


@contextmanager
def receiver(folder: Path) -> Iterator[Deaf]:
    """Make a folder that everybody may write, on this host's disk; the sandbox tries all that it sees."""
    disk = folder / "disk"
    disk.mkdir()
    disk.chmod(0o777)
    try:
        yield Deaf(place={"folders": [str(disk)], "inside": {"folders": []}})
    finally:
        disk.rmdir()
