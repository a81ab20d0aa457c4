# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: find it, make and remove a cgroup, freeze, thaw and kill it, read what it used.

Knows the pure v2 place and the v1 hybrid, where v2 is mounted beside the old controllers and has none.
Every wait is bounded. The root folders are arguments, so that tests can bring a tree of their own.
May import: errors, kernel.usage.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import HomeboundError, PermissionMissing, ServiceUnavailable
from homebound.kernel.usage import (
    ACTION_FILES,
    READ_BYTES,
    USAGE_FILES,
    Cpu,
    Io,
    Memory,
    Pressure,
    Usage,
    parse_pairs,
    read_cpu,
    read_io,
    read_memory,
    read_pressure,
)

# What a device's cgroup should have: bounds and figures of a role come from them. cgroups(7)
CONTROLLERS = ("cpu", "memory", "pids", "io")
# A task in uninterruptible sleep freezes late; a local disk answers within this.
WAIT_SECONDS = 5.0
# cgroup.events wakes a poller; the period is for file systems that do not (a test's fake tree).
POLL_SECONDS = 0.05
# A kernel with PSI switched off keeps the file and answers EOPNOTSUPP; a removed cgroup ENODEV.
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EOPNOTSUPP)

Clock = Callable[[], float]


class CgroupError(HomeboundError):
    """A cgroup did not do what it was told, in the time it had."""


def mount(proc: Path = Path("/proc")) -> Path:
    """Where cgroup2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a v1 hybrid.

    A mount of the whole hierarchy is preferred to a part of it (a bind mount). proc_pid_mountinfo(5)
    """
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ")[0] == "cgroup2":
            root, place = left.split(" ")[3:5]
            found.append((root != "/", Path(place.encode().decode("unicode_escape"))))
    if not found:
        raise ServiceUnavailable(
            "cgroup v2 is not mounted", "mount it with: mount -t cgroup2 none /sys/fs/cgroup/unified"
        )
    return min(found, key=lambda entry: entry[0])[1]


def own(proc: Path = Path("/proc")) -> str:
    """The cgroup v2 path of this process, from the root that it sees. cgroups(7)"""
    for line in (proc / "self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            path = line[3:]
            if "/.." in path:
                raise CgroupError(
                    f"this process is in {path}, outside of the cgroup namespace it sees",
                    "start it with the namespace of the host, or move it below the namespace's root first",
                )
            return path
    raise ServiceUnavailable("this kernel has no cgroup v2", "boot one that was built with CONFIG_CGROUPS")


@dataclass(frozen=True)
class Cgroup:
    """One cgroup v2 folder. ``root`` is the mount point (found when None); ``clock`` counts seconds."""

    path: Path
    root: Path | None = None
    clock: Clock = time.monotonic

    def make(self) -> None:
        """Create it; one that is there already (left by a crash) is taken over."""
        try:
            self.path.mkdir(mode=0o755, exist_ok=True)
        except PermissionError as error:
            raise PermissionMissing(f"cannot make the cgroup {self.path}", "run as root") from error
        except OSError as error:
            raise _failed("make", self.path, error) from error

    def remove(self, seconds: float = WAIT_SECONDS) -> None:
        """Remove it and all below. A task that was just killed keeps a cgroup busy for a moment."""
        deadline = self.clock() + seconds
        while True:
            try:
                for folder in reversed(list(self._folders())):
                    folder.rmdir()
                return
            except FileNotFoundError:
                continue  # somebody else removed it between the listing and now: list again
            except OSError as error:
                if self.clock() >= deadline:
                    raise _failed("remove", self.path, error, "end the processes that are in it") from error
            time.sleep(POLL_SECONDS)

    def child(self, name: str) -> Cgroup:
        """The cgroup ``name`` below this one."""
        return Cgroup(self.path / name, self.root, self.clock)

    def add(self, pid: int) -> None:
        """Move a process in. 0 is the calling one."""
        self._write("cgroup.procs", str(pid))

    def entrance(self) -> int:
        """A descriptor: who writes "0" to it moves in. The caller closes it."""
        return os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def set(self, name: str, value: str) -> bool:
        """Write a setting (``memory.max``); False when the kernel has no such file here."""
        if not (self.path / name).exists():
            return False
        self._write(name, value)
        return True

    def delegate(self, controllers: Sequence[str] = ("cpu", "memory", "io", "pids")) -> tuple[str, ...]:
        """Give the children those of the controllers that are here; returns which. Never raises for one
        that cannot be had: on a v1 hybrid there is none."""
        here = (self._read("cgroup.controllers") or "").split()
        given = []
        for name in controllers:
            try:
                if name in here and self.set("cgroup.subtree_control", f"+{name}"):
                    given.append(name)
            except CgroupError:
                continue  # EBUSY: this cgroup has tasks of its own
        return tuple(given)

    def withdraw(self) -> None:
        """Take back from the children what ``delegate`` gave: only then may this cgroup have tasks again."""
        for name in (self._read("cgroup.subtree_control") or "").split():
            self._write("cgroup.subtree_control", f"-{name}")

    def freeze(self, seconds: float = WAIT_SECONDS) -> None:
        """Stop all tasks and wait until the kernel says that they stand still."""
        self._write("cgroup.freeze", "1")
        if not self._await("frozen", 1, seconds):
            raise CgroupError(
                f"{self.path} did not freeze within {seconds:g} s", "a task hangs in the kernel"
            )

    def thaw(self, seconds: float = WAIT_SECONDS) -> None:
        """Let the tasks run again."""
        self._write("cgroup.freeze", "0")
        if not self._await("frozen", 0, seconds):
            raise CgroupError(f"{self.path} did not thaw within {seconds:g} s", "a cgroup above it is frozen")

    def kill(self, seconds: float = WAIT_SECONDS) -> None:
        """SIGKILL to every task, forks included, and wait until none is left. Frozen tasks die too."""
        if not self.path.exists():
            return
        if not self.set("cgroup.kill", "1"):
            self.kill_each(seconds)
        elif not self._await("populated", 0, seconds):
            raise CgroupError(f"tasks of {self.path} outlived SIGKILL", "a task hangs in the kernel")

    def kill_each(self, seconds: float = WAIT_SECONDS) -> None:
        """The same for kernels before 5.14, which have no cgroup.kill: a fork can outrun us, so go round
        until nobody is left."""
        deadline = self.clock() + seconds
        while True:
            for pid in self.pids():
                _kill_one(pid)
            if self._await("populated", 0, POLL_SECONDS):
                return
            if self.clock() >= deadline:
                raise CgroupError(f"tasks of {self.path} outlived SIGKILL", "a task hangs in the kernel")

    def is_frozen(self) -> bool:
        """Whether all tasks stand still."""
        return self._events().get("frozen") == 1

    def is_populated(self) -> bool:
        """Whether any task is in it or below."""
        return self._events().get("populated") == 1

    def pids(self) -> tuple[int, ...]:
        """Processes in it and below. One outside of our PID namespace shows as 0 and is left out."""
        text = "\n".join(_text(folder / "cgroup.procs") or "" for folder in self._folders())
        return tuple(int(word) for word in text.split() if word != "0")

    def id(self) -> int:
        """The kernel's number of it: the inode (kernfs, on 64-bit machines), as BPF sees it."""
        return self.path.stat().st_ino

    def level(self) -> int:
        """Depth below the root of the hierarchy (the root is 0), as bpf_skb_ancestor_cgroup_id counts it."""
        root = self.root or _mount_above(self.path)
        # Only the real root has no cgroup.events: elsewhere we see a part, of unknown depth.
        if (root / "cgroup.events").exists():
            raise CgroupError(
                f"{root} is a part of the cgroup tree, so the depth of {self.path} is unknown",
                "use the host's cgroup namespace (for a container: --cgroupns=host)",
            )
        return len(self.path.relative_to(root).parts)

    def open_files(self) -> dict[str, int]:
        """Descriptors of the files that the watcher reads or acts by; those that exist. The caller closes."""
        fds = {}
        for names, flags in ((USAGE_FILES, os.O_RDONLY), (ACTION_FILES, os.O_WRONLY)):
            for name in names:
                if (self.path / name).exists():
                    fds[name] = os.open(self.path / name, flags | os.O_CLOEXEC)
        return fds

    def cpu(self) -> Cpu:
        """Processor time so far."""
        return read_cpu(self._read, self.pids)

    def memory(self) -> Memory:
        """Memory held now."""
        return read_memory(self._read, self.pids)

    def io(self) -> Io:
        """Bytes to and from block devices so far."""
        return read_io(self._read, self.pids)

    def pressure(self) -> Pressure:
        """Time spent waiting so far."""
        return read_pressure(self._read)

    def usage(self) -> Usage:
        """All four."""
        return Usage(self.cpu(), self.memory(), self.io(), self.pressure())

    def _folders(self) -> Iterator[Path]:
        return (Path(folder) for folder, _, _ in os.walk(self.path))

    def _read(self, name: str) -> str | None:
        return _text(self.path / name)

    def _write(self, name: str, value: str) -> None:
        # No O_CREAT: a missing file must be an error, not a new file.
        try:
            fd = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except PermissionError as error:
            raise PermissionMissing(f"cannot write {self.path / name}", "run as root") from error
        except OSError as error:
            raise _failed("write", self.path / name, error) from error

    def _events(self) -> Mapping[str, int]:
        return parse_pairs(self._read("cgroup.events") or "")

    def _await(self, key: str, wanted: int, seconds: float) -> bool:
        deadline = self.clock() + seconds
        try:
            fd = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _failed("watch", self.path, error) from error
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI)
            while parse_pairs(os.pread(fd, READ_BYTES, 0).decode()).get(key) != wanted:
                left = deadline - self.clock()
                if left <= 0:
                    return False
                poller.poll(min(left, POLL_SECONDS) * 1000)
            return True
        finally:
            os.close(fd)


def _kill_one(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _mount_above(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_mount())


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError as error:
        if error.errno in MISSING:
            return None
        raise _failed("read", path, error) from error


def _failed(verb: str, path: Path, error: OSError, hint: str = "") -> CgroupError:
    if not hint and error.errno == errno.EROFS:
        hint = "remount cgroup v2 for writing; a container needs one of its own"
    return CgroupError(f"cannot {verb} {path}: {error.strerror}", hint)
