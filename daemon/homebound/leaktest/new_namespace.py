# SPDX-License-Identifier: Apache-2.0
"""New namespaces: a user namespace gives every capability inside it, and with them a network of one's own.

Each is tried in a child, by unshare(2), clone(2) and clone3(2). Nothing is sent. ``attempt`` runs inside the
sandbox. Imports the standard library only. Source: user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, in_child, library_call, system_call, try_each

NUMBER = 41
NAME = "new_namespace"
RULES = ("namespace",)
WALLS = ("seccomp",)
DELIVERS = False

FLAGS: Mapping[str, int] = {
    "user": 0x10000000, "network": 0x40000000, "mount": 0x00020000, "cgroup": 0x02000000,
}  # fmt: skip
CLONE3 = 435  # on every architecture
ARGUMENT_WORDS = 11  # struct clone_args, 88 bytes; exit_signal is the fifth word


def attempt(_target: Target) -> Attempt:
    """Ask for each kind, and for a user namespace with a new process."""

    def way(flags: int) -> Callable[[], None]:
        return lambda: in_child(lambda: (library_call("unshare", ctypes.c_int(flags)), None)[1])

    ways = {f"unshare {name}": way(flags) for name, flags in FLAGS.items()}
    return try_each({**ways, "clone3 user": clone})


def clone() -> None:
    """A child in a user namespace of its own, which ends at once."""
    arguments = (ctypes.c_uint64 * ARGUMENT_WORDS)()
    arguments[0], arguments[4] = FLAGS["user"], signal.SIGCHLD
    pid = system_call(CLONE3, arguments, ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Give a receiver that hears nothing."""
    yield Deaf(place={})
