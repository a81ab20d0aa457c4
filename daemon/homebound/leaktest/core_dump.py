# SPDX-License-Identifier: Apache-2.0
"""A core dump: a crash puts the memory into a file, or into a program that stores and uploads it (core(5)).

A limit of 0 does not stop a dump into a program, which is why it is lowered, too. The kernel says in the exit
status whether it dumped. ``attempt`` runs inside the sandbox; nothing listens. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 25
NAME = "core_dump"
RULES = ()
WALLS = ("no-core-dump",)
DELIVERS = False

PR_SET_DUMPABLE = 4
SHELL = "/bin/sh"


def attempt(target: Target) -> Attempt:
    """Crash a child with the token in its memory: with as much limit as it can get, and with none."""
    folder = target.place(NAME)["folder"]

    def crash(limit: int | None) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                prepare(folder, limit)
                # A new program is dumpable again, whatever its parent made of itself (prctl(2)).
                os.execv(SHELL, [SHELL, "-c", "kill -ABRT $$", target.token])
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        if not os.WCOREDUMP(status):
            raise OSError(errno.EFBIG, "no core was dumped")

    return try_each({"all of the limit": lambda: crash(None), "no limit for a program": lambda: crash(0)})


def prepare(folder: str, limit: int | None) -> None:
    """Make this process as willing to dump as it can be made. What is refused is refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (hard if limit is None else limit, hard))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    with suppress(OSError):
        os.chdir(folder)


@contextmanager
def receiver(folder: Path) -> Iterator[Deaf]:
    """Give a folder for core files; the kernel's own word decides."""
    dumps = folder / "dumps"
    dumps.mkdir()
    dumps.chmod(0o777)
    try:
        yield Deaf(place={"folder": str(dumps)})
    finally:
        for file in dumps.iterdir():
            file.unlink()
        dumps.rmdir()
