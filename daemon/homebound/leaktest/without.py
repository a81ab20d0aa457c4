# SPDX-License-Identifier: Apache-2.0
"""The sandbox with walls left out, to measure what each of the others holds: for tests and the docs.

Takes the daemon's own command line for a role and removes from it, so that what is left is what runs in
earnest. Pure, but for reading which descriptors are inheritable and which folders are closed to others. May
import: kernel.sandbox, kernel.landlock.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

# In the order in which the table shows them. cgroup-bpf is left out by programs that observe.
# entry is what kernel/enter.py closes by itself besides Landlock: descriptors, and calls by a second filter.
WALLS = ("namespaces", "seccomp", "landlock", "cgroup-bpf", "users", "no-inherited-fd", "entry")
# One more, on kernels that have it; left out by not loading its programs.
ALL_WALLS = (*WALLS, "bpf-lsm")
ENTER = "homebound.kernel.enter"
SETPRIV = "/usr/bin/setpriv"
# The folder above the package on the host, where a role without a mount view finds it.
PACKAGE_ROOT = str(Path(__file__).parents[2])
FD_FIRST, FD_LAST = 3, 255


def leave_out(words: Sequence[str], walls: Collection[str]) -> list[str]:
    """The command line that kernel.sandbox.arguments made, without these walls."""
    split = words.index("--")
    head, tail = list(words[:split]), list(words[split + 1 :])
    if "seccomp" in walls:
        at = head.index("--seccomp")
        del head[at : at + 2]
    if "users" in walls:
        tail = tail[next(i for i, word in enumerate(tail) if i and not word.startswith("--")) :]
    if "namespaces" in walls:
        head = _host_view(head)
    at = tail.index(ENTER) + 1
    tail[at] = _entered(tail[at], walls)
    return [*head, "--", *tail]


def _host_view(head: Sequence[str]) -> list[str]:
    """bubblewrap that shows the host as it is: only its environment and its filter are left of ``head``."""
    kept = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", *_way_to(sys.prefix, PACKAGE_ROOT)]
    kept += ["--chdir", "/tmp", "--clearenv"]
    for i, word in enumerate(head):
        if word == "--setenv":
            kept += head[i : i + 3]
        elif word == "--seccomp":
            kept += head[i : i + 2]
    return [*kept, "--setenv", "PYTHONPATH", PACKAGE_ROOT]


def _way_to(*folders: str) -> list[str]:
    """Show a role's user its program where it lies behind a folder that is root's alone, as below /root."""
    behind = {folder: closed for folder in folders if (closed := closed_above(Path(folder)))}
    words = [word for closed in sorted(set(behind.values())) for word in ("--tmpfs", str(closed))]
    steps = {
        step for folder, closed in behind.items() for step in Path(folder).parents if closed in step.parents
    }
    # bubblewrap would make them root's alone.
    words += [word for step in sorted(steps) for word in ("--perms", "0755", "--dir", str(step))]
    return words + [word for folder in behind for word in ("--ro-bind", folder, folder)]


def closed_above(folder: Path) -> Path | None:
    """The topmost folder on the way that other users may not enter; None: they get there."""
    return next((step for step in reversed(folder.parents) if not step.stat().st_mode & 0o001), None)


def _entered(text: str, walls: Collection[str]) -> str:
    """The walls of kernel/enter.py without these; on the host's view our package is where it is there."""
    kept = json.loads(text)
    if "entry" in walls:
        del kept["descriptors"], kept["calls"]
    if "landlock" in walls:
        del kept["paths"]
    elif "namespaces" in walls:
        kept["paths"]["execute"] = [*kept["paths"]["execute"], PACKAGE_ROOT]
    return json.dumps(kept, separators=(",", ":"))


def inheritable() -> dict[int, int]:
    """Our own descriptors that an execve would leave open, each at its number: what a careless spawn hands
    on."""
    found = {}
    for fd in range(FD_FIRST, FD_LAST + 1):
        with suppress(OSError):
            if os.get_inheritable(fd):
                found[fd] = fd
    return found
