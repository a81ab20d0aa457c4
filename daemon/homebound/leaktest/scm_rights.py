# SPDX-License-Identifier: Apache-2.0
"""An open descriptor that somebody passes in over a unix socket (unix(7), SCM_RIGHTS), as if a friend had.

The receiver leaves one end of a socketpair inheritable, with a message in it that carries the write end of a
pipe. ``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.foreign_fd import RECEIVER_AT_LEAST
from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 15
NAME = "scm_rights"
RULES = ("foreign_fd",)
WALLS = ("no-inherited-fd",)
DELIVERS = True

FD_BYTES = array.array("i").itemsize


def attempt(target: Target) -> Attempt:
    """Ask for a descriptor on the receiver's socket, take it, and write to it."""
    place = target.place(NAME)

    def way(fd: int) -> Callable[[], None]:
        return lambda: take(fd, target.token.encode())

    # Links that were given on purpose are not asked: a question would break their frames.
    return try_each({f"fd {place['fd']}": way(place["fd"])})


def take(fd: int, data: bytes) -> None:
    """Ask, receive one descriptor and write to it; OSError when there is no such link or nothing came."""
    os.write(fd, b"?")
    link = socket.socket(fileno=os.dup(fd))
    try:
        _, ancillary, _, _ = link.recvmsg(1, socket.CMSG_SPACE(FD_BYTES), socket.MSG_DONTWAIT)
    finally:
        link.close()
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            (got,) = array.array("i", content[:FD_BYTES])
            os.write(got, data)
            os.close(got)
            return
    raise OSError(errno.ENODATA, "nothing was passed")


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Pass the write end of a pipe, twice, to an inheritable socket; its number is the place."""
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
    for _ in ("the sandbox", "the control"):
        ours.sendmsg([b"!"], rights)
    fd = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, RECEIVER_AT_LEAST)
    theirs.close()
    try:
        with listening({"fd": fd}, readers=[reading]) as made:
            yield made
    finally:
        ours.close()
        os.close(fd)
        os.close(writing)
