# SPDX-License-Identifier: Apache-2.0
"""The first Python of every role: close the last walls, then become the role.

Run inside bubblewrap, after the identity was dropped and the seccomp filter loaded. Closes every descriptor
that was not named, restricts itself by Landlock, makes itself not dumpable, loads a second filter, and runs
the role's module. Starts often: imports nearly nothing. May import: kernel.landlock, kernel.refusals.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import select
import signal
import sys
import threading
from types import TracebackType

from homebound.kernel import landlock, refusals

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
# Where kernel/spawn.py puts a pidfd of the process that started us.
LIFE_FD = 10
# Its output is a file for root alone. That of the others is the daemon's own, which a journal may forward.
HAS_A_LOG = "homebound.trainer"


def main() -> None:
    """``enter WALLS-JSON MODULE ARGUMENT...``; kernel/sandbox.py makes WALLS-JSON.

    {"paths": the fields of landlock.Paths, "descriptors": [number...], "calls": a seccomp.Profile}; a wall
    that is missing there is left out, for measuring the others.
    """
    walls = json.loads(sys.argv[1])
    if "descriptors" in walls:
        close_all_but({0, 1, 2, LIFE_FD, *walls["descriptors"]})
    if "paths" in walls:
        landlock.restrict(landlock.Paths(**{key: tuple(value) for key, value in walls["paths"].items()}))
    libc = ctypes.CDLL(None)
    # No core, no attaching by others of the same user. prctl(2)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # bubblewrap's own --die-with-parent was lost when the user changed. PR_SET_PDEATHSIG(2const)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if is_orphan():
        sys.exit(1)
    os.close(LIFE_FD)
    if "calls" in walls:
        refusals.load(walls["calls"])
    module = sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    os.environ["HOMEBOUND_LANDLOCK"] = str(landlock.abi())
    if module != HAS_A_LOG:
        sys.excepthook = explain
        threading.excepthook = lambda seen: explain(seen.exc_type, seen.exc_value, seen.exc_traceback)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def close_all_but(kept: set[int]) -> None:
    """What nobody named is closed here once more; kernel/spawn.py did it first."""
    free = 0
    for number in sorted(kept):
        if free < number:
            os.closerange(free, number)
        free = number + 1
    os.closerange(free, 1 << 20)


def is_orphan() -> bool:
    """Whether who started us ended before the kernel knew that we end with it. Without the pidfd, too.

    A role is number 1 of its PID namespace, whose parent's number is 0 in any case. pidfd_open(2)
    """
    poller = select.poll()
    poller.register(LIFE_FD, select.POLLIN)
    return bool(poller.poll(0))


def explain(kind: type[BaseException], _error: BaseException | None, trace: TracebackType | None) -> None:
    """A bug in one line: its place and its kind. Its text is left out, because it may quote the peer."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"
    sys.stderr.write(f"homebound: {sys.argv[0]} ends by a bug: {kind.__name__} at {place}\n")


if __name__ == "__main__":
    main()
