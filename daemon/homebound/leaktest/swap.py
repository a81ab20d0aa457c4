# SPDX-License-Identifier: Apache-2.0
"""Swap: memory that the kernel writes to a disk, a file or a network block device, where it stays.

The attempt asks for it by madvise(2), MADV_PAGEOUT (since 5.4), and reads how much went. Nothing listens.
Where this host has no swap, there is nothing to hold. Imports the standard library only.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 26
NAME = "swap"
RULES = ()
WALLS = ("no-swap",)
DELIVERS = False

MADV_PAGEOUT = 21  # linux/mman.h
BYTES = 1 << 20


def attempt(target: Target) -> Attempt:
    """Fill a megabyte with the token and ask the kernel to put it out."""

    def swap_out() -> None:
        with mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.write(target.token.encode() * (BYTES // len(target.token)))
            memory.madvise(MADV_PAGEOUT)
            if not swapped_kilobytes():
                raise OSError(errno.ENOSPC, "nothing went to swap")

    return try_each({"asked": swap_out})


def swapped_kilobytes() -> int:
    """How much of this process is in swap, proc_pid_status(5); 0 where the kernel does not say."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmSwap:"):
            return int(line.split()[1])
    return 0


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Give a receiver that hears nothing."""
    yield Deaf(place={})
