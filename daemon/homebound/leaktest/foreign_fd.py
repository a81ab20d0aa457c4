# SPDX-License-Identifier: Apache-2.0
"""A file descriptor that the process was not given on purpose: an open door, whatever else is shut.

The receiver leaves the write end of a pipe inheritable, as careless code does; what starts the sandbox has
to close it. ``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 14
NAME = "foreign_fd"
RULES = ("foreign_fd",)
WALLS = ("no-inherited-fd",)
DELIVERS = True

# Standard input, output and error belong to the process and are rows of their own.
FIRST = 3
LAST = 255
# Above what a fresh process opens itself, so that the number is free where the descriptor was closed.
RECEIVER_AT_LEAST = 100


def attempt(target: Target) -> Attempt:
    """Write the token to every open descriptor but the known ones; to a closed one when none is open."""
    place = target.place(NAME)
    known = set(place["known"])
    strangers = [fd for fd in range(FIRST, LAST + 1) if fd not in known and is_writable(fd)]
    if not strangers:
        strangers = [place["fd"]]

    def way(fd: int) -> Callable[[], None]:
        return lambda: write(fd, target.token.encode())

    return try_each({f"fd {fd} {kind_of(fd)}": way(fd) for fd in strangers})


def write(fd: int, data: bytes) -> None:
    """Write, unless that would wait: a full pipe is a way out all the same, so it counts as sent."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    # A closed descriptor is ready at once, with POLLNVAL; the write then says EBADF.
    if poll.poll(0):
        os.write(fd, data)


def is_writable(fd: int) -> bool:
    """Say whether a descriptor is open for writing; the kernel's own objects (epoll, eventfd) are not."""
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:
        return False
    return flags & os.O_ACCMODE != os.O_RDONLY and kind_of(fd) != "anonymous"


def kind_of(fd: int) -> str:
    """Return what a descriptor is open on. /proc/self/fd would say more, but not to an undumpable process."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return "closed"
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "device" if stat.S_IFMT(mode) else "anonymous")


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Read a pipe whose write end is open here and inheritable; its number is the place."""
    read_end, write_end = os.pipe()
    fd = fcntl.fcntl(write_end, fcntl.F_DUPFD, RECEIVER_AT_LEAST)
    os.close(write_end)
    try:
        with listening({"fd": fd, "known": []}, readers=[read_end]) as made:
            yield made
    finally:
        os.close(fd)
