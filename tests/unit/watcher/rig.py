# SPDX-License-Identifier: Apache-2.0
"""Counters and events in memory, for tests of what is built on them: they count like the kernel's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homebound.events import (
    CallClass,
    Calls,
    Direction,
    Event,
    Family,
    Flaw,
    Kind,
    Processes,
    Program,
    ProgramCounts,
    Protocol,
    Role,
    Rule,
    Traffic,
    TrafficKey,
    Verdict,
)
from homebound.kernel.calltimes import CallTimes
from homebound.kernel.files import Opens
from homebound.kernel.resources import Resources


def tx(role: Role, verdict: Verdict = Verdict.ALLOWED, family: Family = Family.IPV4) -> TrafficKey:
    """TCP that the role sends."""
    return TrafficKey(role, Direction.TRANSMIT, family, Protocol.TCP, verdict)


def event(role: Role = Role.TRAINER, rule: Rule = Rule.IO_URING, time_ns: int = 0) -> Event:
    """One refused call."""
    return Event(
        kind=Kind.DENIED, role=role, rule=rule, program=Program.SYSCALL_EXIT, time_ns=time_ns, cgroup=1,
        pid=7, tid=7, family=0, protocol=0, address="", port=0, syscall=425, result=-1, detail=0, error=0,
    )  # fmt: skip


@dataclass
class MemoryCounters:
    """Grows by add() and deny(); can be broken."""

    cells: dict[TrafficKey, Traffic] = field(default_factory=dict)
    counts: dict[tuple[Role, Rule], int] = field(default_factory=dict)
    made: dict[tuple[Role, Rule], int] = field(default_factory=dict)
    links: dict[TrafficKey, Traffic] = field(default_factory=dict)
    broken: bool = False

    def add(self, key: TrafficKey, size: int, stream: int = 0) -> None:
        old = self.cells.get(key, Traffic(0, 0, 0))
        self.cells[key] = Traffic(old.packets + 1, old.bytes + size, old.stream_bytes + stream)

    def deny(self, role: Role, rule: Rule, count: int = 1) -> None:
        self.counts[role, rule] = self.counts.get((role, rule), 0) + count

    def traffic(self) -> Mapping[TrafficKey, Traffic]:
        if self.broken:
            raise OSError(9, "Bad file descriptor")
        axes = itertools.product(Role, Direction, Family, Protocol, Verdict)
        return {(key := TrafficKey(*axis)): self.cells.get(key, Traffic(0, 0, 0)) for axis in axes}

    def uplink(self) -> Mapping[TrafficKey, Traffic]:
        return self.links

    def denied(self) -> Mapping[tuple[Role, Rule], int]:
        return {(role, rule): self.counts.get((role, rule), 0) for role in Role for rule in Rule}

    def attempts(self) -> Mapping[tuple[Role, Rule], int]:
        return {(role, rule): self.made.get((role, rule), 0) for role in Role for rule in Rule}

    def processes(self) -> Mapping[Role, Processes]:
        return {role: Processes(7, 6, 5, 4, 3, 2, 1) for role in Role}

    def calls(self) -> Mapping[Role, Calls]:
        return {role: Calls(dict.fromkeys(CallClass, 9), 8, 7) for role in Role}

    def opens(self) -> Opens:
        return {}

    def resources(self) -> Mapping[Role, Resources]:
        return {role: Resources(6_000_000_000, 5, 4, 3, 2, 1_000_000_000) for role in Role}

    def call_times(self) -> Mapping[CallClass, CallTimes]:
        return {}

    def programs(self) -> Mapping[Program, ProgramCounts]:
        return {program: ProgramCounts(5, 3, 2) for program in Program}


class MemoryStream:
    """Events that a test puts in; ``fd`` is readable when there are any."""

    def __init__(self) -> None:
        self.undecoded: dict[Any, int] = dict.fromkeys(Flaw, 0)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: list[Event] = []

    def put(self, *events: Event) -> None:
        self._events += events
        os.eventfd_write(self.fd, 1)

    def poll(self, timeout_ms: int) -> list[Event]:
        del timeout_ms
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return []
        events, self._events = self._events, []
        return events
