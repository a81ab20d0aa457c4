# SPDX-License-Identifier: Apache-2.0
"""What of this host carries something of the trainer's out that no wall of ours holds, and what closes it.

Each is a narrow way that needs a partner, or an agent that sends on what it sees. Reads /proc and decides
nothing. May import: nothing of ours. Source: proc(5), Documentation/admin-guide/sysctl.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Reading a file there asks a server, in an order and at times that the reader chooses.
REMOTE = frozenset(
    "nfs nfs4 cifs smb3 9p ceph afs coda ncpfs fuse fuseblk glusterfs lustre gpfs orangefs ocfs2 gfs2".split()
)


@dataclass(frozen=True)
class Hole:
    """One of them: whether it is closed here, what was seen, and what closes it."""

    name: str
    closed: bool
    fact: str
    advice: str


def look(data: Path | None, proc: Path = Path("/proc")) -> Iterator[Hole]:
    """All of them on this host; ``data`` is the data folder, if there is one."""
    yield _names_of_processes(proc)
    yield _crash_lines(proc)
    yield _swap(proc)
    if data is not None:
        yield _data(data, proc)


def _names_of_processes(proc: Path) -> Hole:
    """A process names itself, and its arguments are its own memory; whoever reads /proc sees both."""
    options = next((options for place, _, options in _mounts(proc) if place == "/proc"), "")
    hidden = any(f"hidepid={word}" in options for word in ("2", "invisible", "4", "ptraceable"))
    fact = "other users do not see them" if hidden else "every user sees them"
    return Hole("process names", hidden, fact, "mount /proc with hidepid=2; leave the trainer out of agents")


def _crash_lines(proc: Path) -> Hole:
    """A crash writes the name of the process and an address of its choice into the kernel's log."""
    try:
        off = (proc / "sys/debug/exception-trace").read_text().strip() == "0"
    except OSError:
        return Hole("crash lines", True, "this kernel writes none", "")
    fact = "the kernel's log has none" if off else "a crash writes its address into the kernel's log"
    return Hole("crash lines", off, fact, "sysctl debug.exception-trace=0, where logs are forwarded")


def _swap(proc: Path) -> Hole:
    """Without the memory controller of cgroup v2 the trainer's pages may go there."""
    lines = (proc / "swaps").read_text().splitlines()[1:]
    places = ", ".join(line.split()[0] for line in lines)
    fact = f"on {places}" if places else "there is none"
    advice = "encrypt it, or boot with cgroup v2's memory controller, by which the trainer is kept out of it"
    return Hole("swap", not places, fact, advice)


def _data(data: Path, proc: Path) -> Hole:
    """The kind of file system that the data folder lies on."""
    real = data.resolve()
    above = [(place, kind) for place, kind, _ in _mounts(proc) if real.is_relative_to(place)]
    # Of two mounts in one place the later one is seen.
    _, kind = max(reversed(above), key=lambda mount: len(mount[0]), default=("/", "unknown"))
    remote = kind.split(".")[0] in REMOTE
    fact = f"{data} lies on {kind}"
    return Hole(
        "data on this host", not remote, fact, "copy it: a server of files sees what is read, and when"
    )


def _mounts(proc: Path) -> Iterator[tuple[str, str, str]]:
    """Place, kind and options (of the mount and of the file system) of each mount. proc_pid_mountinfo(5)"""
    text = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        place, options = left.split(" ")[4:6]
        kind, _, more = right.split(" ", 2)
        yield place.encode().decode("unicode_escape"), kind, f"{options},{more}"
