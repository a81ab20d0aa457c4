# SPDX-License-Identifier: Apache-2.0
"""Facts about a running process as the kernel tells them, and the decision whether its walls stand.

The supervisor looks at every role from outside before it trusts it: a role's own word is not asked.
Facts and decision are two functions. May import: nothing of ours.
Source: proc_pid_status(5), namespaces(7), proc_pid_fd(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
SECCOMP_FILTER = 2  # SECCOMP_MODE_FILTER
NO_CORE = 1  # bytes; why not 0 stands in kernel/spawn.py


@dataclass(frozen=True)
class Facts:
    """What /proc/PID says. ``descriptors`` maps a number to what it points at; ``program`` is what runs."""

    pid: int
    uids: frozenset[int]
    gids: frozenset[int]
    groups: frozenset[int]
    capabilities: int
    no_new_privs: bool
    seccomp: int
    namespaces: dict[str, int]
    descriptors: dict[int, str]
    core_limit: int
    program: str


@dataclass(frozen=True)
class Expected:
    """How a role must look. ``links`` are the descriptor numbers it was handed."""

    uid: int
    gid: int
    groups: frozenset[int]
    shared_namespaces: frozenset[str]
    links: frozenset[int]


@dataclass(frozen=True)
class Fault:
    """One wall that does not stand."""

    wall: str
    detail: str


def read_facts(pid: int, proc: Path = Path("/proc")) -> Facts:
    """The facts of ``pid``. Raises OSError when it has ended."""
    folder = proc / str(pid)
    # First of all, because execve follows the dropping of rights: whoever is seen as the role's program
    # has dropped them, and everything that is read after this is that program's.
    program = os.readlink(folder / "exe")
    status = dict(
        line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
    )
    capabilities = 0
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        capabilities |= int(status[name], 16)
    limits = (folder / "limits").read_text().splitlines()
    soft, core = next(line for line in limits if line.startswith("Max core file size")).split()[4:6]
    return Facts(
        pid=pid,
        uids=frozenset(map(int, status["Uid"].split())),
        gids=frozenset(map(int, status["Gid"].split())),
        groups=frozenset(map(int, status["Groups"].split())),
        capabilities=capabilities,
        no_new_privs=status["NoNewPrivs"] == "1",
        seccomp=int(status["Seccomp"]),
        namespaces={name: os.stat(folder / "ns" / name).st_ino for name in NAMESPACES},
        descriptors=_descriptors(folder / "fd"),
        core_limit=int(core) if core.isdigit() and core == soft else -1,
        program=program,
    )


def _descriptors(folder: Path) -> dict[int, str]:
    found = {}
    for name in os.listdir(folder):
        try:
            found[int(name)] = os.readlink(folder / name)
        except FileNotFoundError:
            continue  # closed since it was listed
    return found


def decide(facts: Facts, own_namespaces: dict[str, int], expected: Expected) -> list[Fault]:
    """The walls that do not stand for this process; empty when all do."""
    faults = []
    if facts.uids != {expected.uid} or facts.gids != {expected.gid} or facts.groups - expected.groups:
        faults.append(Fault("users", f"runs as {sorted(facts.uids)}, not as {expected.uid}"))
    if facts.capabilities or not facts.no_new_privs:
        faults.append(Fault("users", "has capabilities or may gain them"))
    if facts.seccomp != SECCOMP_FILTER:
        faults.append(Fault("seccomp", "no filter is loaded"))
    shared = {name for name in NAMESPACES if facts.namespaces[name] == own_namespaces[name]}
    if shared - expected.shared_namespaces:
        faults.append(Fault("namespaces", "shares " + ", ".join(sorted(shared - expected.shared_namespaces))))
    foreign = {
        number: target
        for number, target in facts.descriptors.items()
        if number > 2 and number not in expected.links and _leads_out(target)
    }
    if foreign:
        faults.append(Fault("no-inherited-fd", "holds " + ", ".join(sorted(foreign.values()))))
    if facts.core_limit != NO_CORE:
        faults.append(Fault("no-core-dump", "may write a core file"))
    return faults


def _leads_out(target: str) -> bool:
    """Whether a descriptor could carry bytes to another process. A role's own files and timers cannot."""
    return target.startswith(("socket:", "pipe:", "/dev/")) and target not in ("/dev/null", "/dev/urandom")
