# SPDX-License-Identifier: Apache-2.0
"""What a role used: processor time, memory, disk bytes and time spent waiting, from its cgroup's files.

Where a controller's file is missing (a v1 hybrid has no controllers in v2), the sums of the living
processes stand in; each figure says where it comes from. OpenFiles works by handed-over descriptors, in a
process without any right (the watcher). May import: psutil (only when a file is missing).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CGROUP, PSUTIL, ABSENT = "cgroup", "psutil", "absent"
USAGE_FILES = ("cpu.stat", "memory.current", "io.stat", "cpu.pressure", "memory.pressure", "io.pressure")
ACTION_FILES = ("cgroup.freeze", "cgroup.kill")
READ_BYTES = 65536  # pressure files are 100 bytes; io.stat has a line of about 100 for each device

Read = Callable[[str], str | None]  # text of a cgroup file by its name, None when it is missing
Pids = Callable[[], Sequence[int]]


@dataclass(frozen=True)
class Cpu:
    """Processor time in seconds, user and system together; None when nobody knows."""

    seconds: float | None
    source: str


@dataclass(frozen=True)
class Memory:
    """Bytes held now: memory.current, or the sum of proportional set sizes."""

    bytes: int | None
    source: str


@dataclass(frozen=True)
class Io:
    """Bytes read from and written to block devices."""

    read_bytes: int | None
    write_bytes: int | None
    source: str


@dataclass(frozen=True)
class Pressure:
    """Seconds in which at least one task waited ("some" of PSI, Documentation/accounting/psi.rst)."""

    cpu: float | None
    memory: float | None
    io: float | None
    source: str


@dataclass(frozen=True)
class Usage:
    """What one role used."""

    cpu: Cpu
    memory: Memory
    io: Io
    pressure: Pressure


@dataclass(frozen=True)
class OpenFiles:
    """Cgroup files by descriptors that somebody with the right opened: all that the watcher has."""

    fds: Mapping[str, int]

    def read(self, name: str) -> str | None:
        """The text now; None when the file was not there or its cgroup is gone."""
        try:
            return os.pread(self.fds[name], READ_BYTES, 0).decode() if name in self.fds else None
        except OSError:
            return None

    def freeze(self) -> bool:
        """Stop all tasks, without waiting; False when it could not be written."""
        return self._write("cgroup.freeze")

    def kill(self) -> bool:
        """SIGKILL to all tasks; False on a kernel before 5.14 or when the cgroup is gone."""
        return self._write("cgroup.kill")

    def usage(self) -> Usage:
        """What can be read here; the rest is ABSENT."""
        read = self.read
        return Usage(read_cpu(read), read_memory(read), read_io(read), read_pressure(read))

    def _write(self, name: str) -> bool:
        try:
            return name in self.fds and os.pwrite(self.fds[name], b"1", 0) == 1
        except OSError:
            return False


def read_cpu(read: Read, pids: Pids | None = None) -> Cpu:
    """usage_usec of cpu.stat: there without the cpu controller too."""
    used = parse_pairs(read("cpu.stat") or "").get("usage_usec")
    if used is not None:
        return Cpu(used / 1e6, CGROUP)
    return Cpu(_sums(pids)[0], PSUTIL) if pids else Cpu(None, ABSENT)


def read_memory(read: Read, pids: Pids | None = None) -> Memory:
    """memory.current, page cache included; or the proportional set sizes, without it."""
    text = read("memory.current")
    if text is not None:
        return Memory(int(text), CGROUP)
    return Memory(_sums(pids)[1], PSUTIL) if pids else Memory(None, ABSENT)


def read_io(read: Read, pids: Pids | None = None) -> Io:
    """rbytes and wbytes of io.stat, all devices; or the sums of the living processes."""
    text = read("io.stat")
    if text is None:
        return Io(*_sums(pids)[2:], PSUTIL) if pids else Io(None, None, ABSENT)
    words = [word.partition("=") for word in text.split()]
    read_bytes, write_bytes = (
        sum(int(value) for key, _, value in words if key == name) for name in ("rbytes", "wbytes")
    )
    return Io(read_bytes, write_bytes, CGROUP)


def read_pressure(read: Read) -> Pressure:
    """The three .pressure files; psutil knows nothing like it, so without them it is ABSENT."""
    cpu, memory, io = (_stalled(read(f"{name}.pressure")) for name in ("cpu", "memory", "io"))
    return Pressure(cpu, memory, io, ABSENT if cpu is memory is io is None else CGROUP)


def parse_pairs(text: str) -> dict[str, int]:
    """Lines of a name and a number (cgroup.events, cpu.stat)."""
    words = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2}


def _stalled(text: str | None) -> float | None:
    for line in (text or "").splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def _sums(pids: Pids) -> tuple[float, int, int, int]:
    """Seconds, PSS bytes, bytes read, bytes written of the processes that live now."""
    import psutil  # type: ignore[import-untyped]  # not at the top: the watcher imports this file and never needs it

    seconds, held, took, gave = 0.0, 0, 0, 0
    for pid in pids():
        try:
            process = psutil.Process(pid)
            times, disk = process.cpu_times(), process.io_counters()
            seconds += times.user + times.system
            held += process.memory_full_info().pss
            took, gave = took + disk.read_bytes, gave + disk.write_bytes
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended while we looked
    return seconds, held, took, gave
