# SPDX-License-Identifier: Apache-2.0
"""Reads what the BPF programs counted and told, from nothing but handed-over descriptors.

Works in a process without any capability (Linux 5.19 and newer). Counters are summed over the CPUs at each
read; nothing is kept between reads. The ring buffer is mapped and read here, without libbpf and its
callbacks, so that a reader may run under a ban on writable and executable memory.
May import: events, kernel.bpf. Source: bpf(2), Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import select
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from homebound.events import (
    CallClass,
    Calls,
    Canary,
    Direction,
    Event,
    Family,
    Flaw,
    Processes,
    Program,
    ProgramCounts,
    Protocol,
    Role,
    Rule,
    Traffic,
    TrafficKey,
    Verdict,
    decode,
    denied_index,
    traffic_index,
)
from homebound.kernel import bpf

WORD = 8
Key = TypeVar("Key", bound=int)
# struct bpf_ringbuf_hdr: length with two flags, page offset.
HEADER_BYTES = 8
BUSY, DISCARDED = 1 << 31, 1 << 30


def possible_cpus(system: Path = Path("/sys")) -> int:
    """How many values a per-CPU map has: possible, not online, CPUs (sysfs-devices-system-cpu)."""
    count = 0
    for part in (system / "devices/system/cpu/possible").read_text().strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def read_traffic(fd: int) -> Mapping[TrafficKey, Traffic]:
    """Every cell of the map ``traffic``, zeros too."""
    cells = _Cells(fd)
    axes = itertools.product(Role, Direction, Family, Protocol, Verdict)
    keys = (TrafficKey(*axis) for axis in axes)
    return {key: Traffic(*cells.read(traffic_index(key))) for key in keys}


def read_denied(fd: int) -> Mapping[tuple[Role, Rule], int]:
    """Every count of the map ``denied``, zeros too."""
    cells = _Cells(fd)
    return {(role, rule): cells.read(denied_index(role, rule))[0] for role in Role for rule in Rule}


def read_program_state(fd: int) -> Mapping[Program, ProgramCounts]:
    """Events made and lost, and failed lookups, by program."""
    cells = _Cells(fd)
    return {program: ProgramCounts(*cells.read(program)) for program in Program}


def read_counts(fd: int, count: int) -> list[int]:
    """The elements of an array of 64-bit numbers, per CPU or not."""
    cells = _Cells(fd)
    return [cells.read(index)[0] for index in range(count)]


def read_attempts(fd: int) -> Mapping[tuple[Role, Rule], int]:
    """Every count of the map ``attempts``: what was seen and not refused."""
    return read_denied(fd)


def read_processes(fd: int) -> Mapping[Role, Processes]:
    """Every cell of the map ``processes``. Counts are sums over the CPUs, the peak is the largest."""
    cells = _Cells(fd)
    found = {}
    for role in Role:
        counts = cells.read(role)
        found[role] = replace(Processes(*counts), peak_bytes=cells.largest(len(counts) - 1))
    return found


def read_calls(fd: int) -> Mapping[Role, Calls]:
    """Every cell of the map ``calls``."""
    cells, found = _Cells(fd), {}
    for role in Role:
        *counts, compat, x32 = cells.read(role)
        found[role] = Calls({kind: counts[kind] for kind in CallClass}, compat, x32)
    return found


def read_cells(fd: int, indices: Iterable[int]) -> Mapping[int, int]:
    """These cells of a map that counts one thing a cell."""
    cells = _Cells(fd)
    return {index: cells.read(index)[0] for index in indices}


def read_words(fd: int, keys: Iterable[Key]) -> Mapping[Key, list[int]]:
    """The sums of these cells, word for word."""
    cells = _Cells(fd)
    return {key: cells.read(key) for key in keys}


class _Cells:
    """A per-CPU array of 64-bit words, read cell by cell and summed over the CPUs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._width = bpf.map_info(fd).value_size // WORD
        self._buffer = ctypes.create_string_buffer(self._width * WORD * possible_cpus())
        self._words = memoryview(self._buffer).cast("B").cast("Q")

    def read(self, index: int) -> list[int]:
        if not bpf.lookup(self._fd, index.to_bytes(4, sys.byteorder), self._buffer):
            raise IndexError(f"the map has no cell {index}")
        return [sum(self._words[column :: self._width]) for column in range(self._width)]

    def largest(self, column: int) -> int:
        """The largest value of a column over the CPUs, of the cell that was read last."""
        return max(self._words[column :: self._width])


def ask_for_event() -> None:
    """Make the one event that is ours to make, as the watcher: it proves that events come through."""
    with suppress(OSError):
        os.close(Canary.DESCRIPTOR)


class EventStream:
    """The one reader of the ring buffer ``events``. The descriptor must be writable: the read position is
    in memory shared with the kernel. ``undecoded`` counts records that were no event we know, by flaw.

    The kernel publishes the write position and each record's header with release stores; Python has no
    acquire loads, so a lock is given and taken back between reading a position and what it guards. That
    orders memory on every architecture.
    """

    def __init__(self, fd: int) -> None:
        self._size = bpf.map_info(fd).max_entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page)
        # Read-only: write position, then the data twice in a row, so that no record is ever split.
        self._producer = mmap.mmap(fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)
        # Casts to "Q" and "I" read and write in one piece; struct's standard sizes go byte by byte.
        self._read_at = memoryview(self._consumer).cast("Q")
        self._written_to = memoryview(self._producer)[:WORD].cast("Q")
        self._data = memoryview(self._producer)[page:]
        self._headers = self._data.cast("I")
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        self._lock = threading.Lock()
        self._lock.acquire()
        self.undecoded = dict.fromkeys(Flaw, 0)

    def poll(self, timeout_ms: int) -> list[Event]:
        """Wait up to ``timeout_ms`` for events (0: not at all) and return all that are there, in order."""
        if not self._poller.poll(timeout_ms):
            return []
        events = []
        for record in self._take():
            event = decode(record)
            if isinstance(event, Flaw):
                self.undecoded[event] += 1
            else:
                events.append(event)
        return events

    def close(self) -> None:
        """Unmap. The descriptor stays with its owner."""
        for view in (self._read_at, self._written_to, self._headers, self._data):
            view.release()
        self._consumer.close()
        self._producer.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> list[bytes]:
        """Copies of all finished records; their room is then given back to the kernel."""
        position, end = self._read_at[0], self._written_to[0]
        self._order_memory()
        spans = []
        while position < end:
            offset = position & (self._size - 1)
            header = self._headers[offset // 4]
            if header & BUSY:
                break
            length = header & ~DISCARDED
            if not header & DISCARDED:
                spans.append((offset + HEADER_BYTES, length))
            position += (HEADER_BYTES + length + WORD - 1) // WORD * WORD
        self._order_memory()
        records = [bytes(self._data[start : start + length]) for start, length in spans]
        self._order_memory()
        self._read_at[0] = position
        return records

    def _order_memory(self) -> None:
        # The lock is held but for this moment: a release, then an acquire.
        self._lock.release()
        self._lock.acquire()
