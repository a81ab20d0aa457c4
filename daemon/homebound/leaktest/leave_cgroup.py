# SPDX-License-Identifier: Apache-2.0
"""Leave the place where one is watched: another cgroup by its file, another namespace by setns(2).

A child tries, so that the attempts after this one are where they were. Nothing is sent. ``attempt`` runs
inside the sandbox. Imports the standard library only. Source: cgroups(7), setns(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, in_child, library_call, try_each

NUMBER = 42
NAME = "leave_cgroup"
RULES = ("namespace", "file_outside")
WALLS = ("users",)
DELIVERS = False


def attempt(target: Target) -> Attempt:
    """Move into the receiver's cgroup, and into the network namespace of the first process in view."""
    procs = target.place(NAME)["procs"]

    def move() -> None:
        with open(procs, "r+", encoding="ascii") as file:
            file.write("0")

    def enter() -> None:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        library_call("setns", ctypes.c_int(fd), ctypes.c_int(0))

    return try_each({"cgroup": lambda: in_child(move), "setns": lambda: in_child(enter)})


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Make an empty cgroup v2 beside all others; OSError where there is none."""
    cgroup = mount() / f"homebound-leak-{os.getpid()}"
    cgroup.mkdir()
    try:
        yield Deaf(place={"procs": str(cgroup / "cgroup.procs")})
    finally:
        cgroup.rmdir()


def mount() -> Path:
    """Where cgroup v2 is mounted. proc_pid_mountinfo(5)"""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ")[0] == "cgroup2":
            return Path(left.split(" ")[4])
    raise OSError(errno.ENOENT, "cgroup v2 is not mounted")
