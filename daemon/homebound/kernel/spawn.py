# SPDX-License-Identifier: Apache-2.0
"""Start a process inside a cgroup, with exactly the descriptors that were named.

The child enters its cgroup before it executes anything. If that cgroup is frozen it stops there, so a
role's first instruction runs only after the thaw. It gets a pidfd of ours besides, by which kernel/enter.py
sees that we died before it could ask to die with us. May import: errors, kernel.cgroups, kernel.enter.
Source: fork(2), pidfd_open(2), close_range(2), cgroup-v2.rst (cgroup.procs, cgroup.freeze).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from homebound.kernel.enter import LIFE_FD

# Descriptors are first copied above this number, so that no target overwrites a source.
STAGING = 256
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000  # linux/sched.h, linux/mount.h
# Bytes of a core dump. Too few for a file; and for a program that takes dumps (core_pattern "|...") this very
# number means none, while 0 means as usual. fs/coredump.c, core(5)
NO_CORE = 1
# Kinds of memory that a dump holds. It stays so for whoever is executed, and /proc is not writable to a role:
# should there be a dump all the same, registers and arguments are in it and no memory. core(5)
NO_MEMORY = "0"


@dataclass(frozen=True)
class Command:
    """What to start. ``fds`` maps a number in the child to a descriptor of ours; 0 to 2 may be in it.

    ``limits`` maps a resource of setrlimit(2) to its bound; they are root's too, so the child keeps them.
    """

    words: Sequence[str]
    fds: Mapping[int, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    oom_score_adjust: int = 0
    open_files: int = 4096
    limits: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Child:
    """A started process; ``pidfd`` becomes readable when it ends. The holder closes it."""

    pid: int
    pidfd: int


def spawn(command: Command, cgroup: Path) -> Child:
    """Fork, enter ``cgroup``, execute. Returns at once, also when the cgroup is frozen.

    A failure before the command runs ends the child with status 127 and a line on its standard error.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    life = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        try:
            _enter_and_execute(command, cgroup, life)
        except BaseException as error:  # noqa: BLE001 - the child must never return into the parent's code
            os.write(2, f"homebound: cannot start {command.words[0]}: {error}\n".encode())
        os._exit(127)
    os.close(life)
    return Child(pid, os.pidfd_open(pid))


def _enter_and_execute(command: Command, cgroup: Path, life: int) -> None:
    os.setsid()
    # Signals that the parent blocked or ignored would stay so across execve. signal(7)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _place({**command.fds, LIFE_FD: life})
    _limit(command)
    _leave_host_mounts()
    # "0" is the writer itself. Only the unified hierarchy is entered, never a version 1 one.
    with open(cgroup / "cgroup.procs", "w", encoding="ascii") as procs:
        procs.write("0")
    os.execvpe(command.words[0], list(command.words), {"PATH": os.defpath, **command.environment})


def _place(fds: Mapping[int, int]) -> None:
    """Put each descriptor at its number, inheritable, and close all others."""
    staged = {target: fcntl.fcntl(source, fcntl.F_DUPFD, STAGING) for target, source in fds.items()}
    null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, STAGING)
    for target in range(3):
        staged.setdefault(target, null)
    for target, source in staged.items():
        os.dup2(source, target, inheritable=True)
    free = 3
    for target in [*sorted(target for target in staged if target > 2), 1 << 20]:
        if free < target:  # an empty range would wrap around and close everything
            os.closerange(free, target)
        free = target + 1


def _limit(command: Command) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (NO_CORE, NO_CORE))
    with open("/proc/self/coredump_filter", "w", encoding="ascii") as kinds:
        kinds.write(NO_MEMORY)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = command.open_files if hard == resource.RLIM_INFINITY else min(command.open_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for name, bound in command.limits.items():
        resource.setrlimit(name, (bound, bound))
    if command.oom_score_adjust:
        # A lower score wants CAP_SYS_RESOURCE, which a container may lack: an order of dying, not a wall.
        with suppress(PermissionError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(str(command.oom_score_adjust))


def _leave_host_mounts() -> None:
    """A mount namespace that no later mount of the host reaches: one below the data folder would show to the
    trainer as the host mounted it, writable. mount_namespaces(7)"""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot part from the host's mounts: {os.strerror(number)}")
