# SPDX-License-Identifier: Apache-2.0
"""What a scrape reads: the BPF maps and the files of the role cgroups, as metric values.

The kernel's figures are turned into readings here and kept nowhere. What takes rights to see (whether a
program is attached, the processes of a cgroup without controllers) is the supervisor's last word.
May import: events, metrics, kernel.calltimes, kernel.files, kernel.maps, kernel.resources,
kernel.usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from homebound.events import (
    ACTIVITY,
    CallClass,
    Calls,
    Direction,
    Event,
    Processes,
    Program,
    ProgramCounts,
    Role,
    Rule,
    Traffic,
    TrafficKey,
    Verdict,
)
from homebound.kernel import calltimes, maps, resources, usage
from homebound.kernel.calltimes import CallTimes
from homebound.kernel.files import Opens, area_label, read_opens
from homebound.kernel.resources import Resources
from homebound.metrics import (
    BY_NAME,
    PROGRAMS,
    RESOURCES,
    STARTED,
    Readings,
    denied_rule,
    program_group,
)


class Counters(Protocol):
    """What the BPF programs counted, read at each call."""

    def traffic(self) -> Mapping[TrafficKey, Traffic]:
        """Every cell."""

    def uplink(self) -> Mapping[TrafficKey, Traffic]:
        """The same cells as the second meter counted them, on the host's links; nothing where it is not."""

    def denied(self) -> Mapping[tuple[Role, Rule], int]:
        """Every count."""

    def attempts(self) -> Mapping[tuple[Role, Rule], int]:
        """Every count of what nothing refused."""

    def processes(self) -> Mapping[Role, Processes]:
        """What each role's processes did; nothing where no program looks."""

    def calls(self) -> Mapping[Role, Calls]:
        """System calls of each role; nothing where no program looks."""

    def opens(self) -> Opens:
        """Files that each role opened; nothing where no program looks."""

    def resources(self) -> Mapping[Role, Resources]:
        """What each role's threads used; nothing where no program looks."""

    def call_times(self) -> Mapping[CallClass, CallTimes]:
        """How long the trainer's calls took; nothing where no program looks."""

    def programs(self) -> Mapping[Program, ProgramCounts]:
        """Every program's own counts."""


@dataclass(frozen=True)
class MapCounters:
    """Counters behind map descriptors, by the names of the maps."""

    fds: Mapping[str, int]

    def traffic(self) -> Mapping[TrafficKey, Traffic]:
        return maps.read_traffic(self.fds["traffic"])

    def uplink(self) -> Mapping[TrafficKey, Traffic]:
        return maps.read_traffic(self.fds["uplink"]) if "uplink" in self.fds else {}

    def denied(self) -> Mapping[tuple[Role, Rule], int]:
        return maps.read_denied(self.fds["denied"])

    def attempts(self) -> Mapping[tuple[Role, Rule], int]:
        return maps.read_attempts(self.fds["attempts"])

    def processes(self) -> Mapping[Role, Processes]:
        return maps.read_processes(self.fds["processes"]) if "processes" in self.fds else {}

    def calls(self) -> Mapping[Role, Calls]:
        return maps.read_calls(self.fds["calls"]) if "calls" in self.fds else {}

    def opens(self) -> Opens:
        return read_opens(self.fds["opens"]) if "opens" in self.fds else {}

    def resources(self) -> Mapping[Role, Resources]:
        return resources.read(self.fds["resources"]) if "resources" in self.fds else {}

    def call_times(self) -> Mapping[CallClass, CallTimes]:
        return calltimes.read(self.fds["call_times"]) if "call_times" in self.fds else {}

    def programs(self) -> Mapping[Program, ProgramCounts]:
        return maps.read_program_state(self.fds["program_state"])


@dataclass(frozen=True)
class ProgramFigures:
    """What the supervisor found of one program; None for one that the settings switch off. A link's
    descriptor can detach it, so it is not handed over to look for ourselves."""

    attached: bool | None
    runs: float | None
    run_seconds: float | None


SWITCHED_OFF = ProgramFigures(None, None, None)


def describe(event: Event, moment: float) -> dict[str, Any]:
    """An event as JSON. ``moment``: seconds since the epoch."""
    return {
        "time": moment,
        "role": event.role.label,
        "rule": event.rule.label if event.rule is not None else "",
        "kind": event.kind.label,
        "program": event.program.bpf_name,
        "pid": event.pid,
        "tid": event.tid,
        "family": event.family,
        "protocol": event.protocol,
        "address": event.address,
        "port": event.port,
        "syscall": event.syscall,
        "result": event.result,
        "detail": event.detail,
        "area": area_label(event.area),
    }


def left_the_role(key: TrafficKey, mode: str) -> bool:
    """Whether packets of this cell went out: in observe mode the denied ones did too."""
    return key.direction is Direction.TRANSMIT and (key.verdict is Verdict.ALLOWED or mode == "observe")


def sent_bytes(traffic: Mapping[TrafficKey, Traffic], mode: str) -> dict[Role, int]:
    """IP bytes that each role sent."""
    sums = dict.fromkeys(Role, 0)
    for key, cell in traffic.items():
        if left_the_role(key, mode):
            sums[key.role] += cell.bytes
    return sums


def stream_bytes(traffic: Mapping[TrafficKey, Traffic], role: Role, mode: str) -> int:
    """TCP payload bytes that the role sent, each once."""
    return sum(
        cell.stream_bytes for key, cell in traffic.items() if key.role is role and left_the_role(key, mode)
    )


def of_traffic(traffic: Mapping[TrafficKey, Traffic], mode: str) -> Readings:
    """Bytes by role, both ways."""
    received = dict.fromkeys(Role, 0)
    for key, cell in traffic.items():
        if key.direction is Direction.RECEIVE and (key.verdict is Verdict.ALLOWED or mode == "observe"):
            received[key.role] += cell.bytes
    return {
        "homebound_transmit_bytes_total": {(r.label,): n for r, n in sent_bytes(traffic, mode).items()},
        "homebound_receive_bytes_total": {(r.label,): n for r, n in received.items()},
    }


def of_uplink(traffic: Mapping[TrafficKey, Traffic], mode: str) -> Readings:
    """Bytes by role that were counted on the host's links; homebound_uplinks_metered says on how many."""
    sums = sent_bytes(traffic, mode).items()
    return {"homebound_uplink_bytes_total": {(role.label,): size for role, size in sums}}


def of_denied(denied: Mapping[tuple[Role, Rule], int]) -> Readings:
    """Refused attempts by rule, of all roles."""
    sums: dict[tuple[str, ...], float | None] = {}
    for (_, rule), count in denied.items():
        label = (denied_rule(rule.label),)
        sums[label] = (sums.get(label) or 0) + count
    return {"homebound_denied_total": sums}


def of_processes(found: Mapping[Role, Processes]) -> Readings:
    """What the trainer's processes did; left out where no program looks."""
    trainer = found.get(Role.TRAINER)
    done: dict[tuple[str, ...], float | None] = {
        ("fork",): trainer.forks if trainer else None,
        ("exec",): trainer.execs if trainer else None,
        ("exit",): trainer.exits if trainer else None,
        ("killed",): trainer.killed if trainer else None,
        ("oom_kill",): trainer.oom_kills if trainer else None,
    }
    return {
        "homebound_trainer_processes_total": done,
        "homebound_trainer_process_peak_memory_bytes": {(): trainer.peak_bytes if trainer else None},
    }


def of_event_path(age: float) -> Readings:
    """How long ago an event came all the way."""
    return {"homebound_event_path_age_seconds": {(): max(0.0, age)}}


def of_calls(found: Mapping[Role, Calls]) -> Readings:
    """System calls of the trainer by class, and those of all roles that came in by another interface.

    Roles always make calls: where none was counted nobody counts, and a 0 would be made up.
    """
    trainer = found.get(Role.TRAINER)
    is_counted = any(count for calls in found.values() for count in calls.by_class.values())
    held = [calls for role, calls in found.items() if role not in (Role.NONE, Role.SUPERVISOR)]
    return {
        "homebound_trainer_system_calls_total": {
            (kind.label,): count for kind, count in (trainer.by_class if trainer else {}).items() if count
        },
        "homebound_foreign_calls_total": {
            ("compat",): sum(calls.compat for calls in held) if is_counted else None,
            ("x32",): sum(calls.x32 for calls in held) if is_counted else None,
        },
    }


def of_opens(found: Opens) -> Readings:
    """Files that the trainer opened; nothing where no program looks."""
    return {
        "homebound_trainer_opens_total": {
            (area.label, mode.label): count
            for (role, area, mode), count in found.items()
            if role is Role.TRAINER
        }
    }


def programs_from_report(report: Any) -> dict[str, ProgramFigures]:
    """The supervisor's list of programs, each with name, need, attached, runs and run_seconds."""
    return {
        name: SWITCHED_OFF
        if entry.get("need") == "off"
        else ProgramFigures(
            entry.get("attached") is True, _number(entry.get("runs")), _number(entry.get("run_seconds"))
        )
        for entry in (report if isinstance(report, list) else [])
        if isinstance(entry, dict) and (name := entry.get("name")) in PROGRAMS
    }


def of_programs(counts: Mapping[Program, ProgramCounts], reported: Mapping[str, ProgramFigures]) -> Readings:
    """Counts from the map, state and cost from the supervisor; before its first word they are left out.

    A group is attached when all of it is that is not switched off.
    """
    groups: dict[str, list[bool]] = {}
    for name, found in reported.items():
        if found.attached is not None:
            groups.setdefault(program_group(name), []).append(found.attached)
    return {
        "homebound_bpf_program_attached": {
            (name, need): float(all(groups[name])) if name in groups else None
            for name, need in BY_NAME["homebound_bpf_program_attached"].values
        },
        "homebound_bpf_program_runs_total": {
            (name,): reported[name].runs if name in reported else None for name in PROGRAMS
        },
        "homebound_bpf_program_run_seconds_total": {
            (name,): reported[name].run_seconds if name in reported else None for name in PROGRAMS
        },
        "homebound_bpf_failed_lookups_total": {(): sum(state.failed_lookups for state in counts.values())},
        "homebound_events_lost_total": {
            ("refusals",): sum(state.lost for p, state in counts.items() if p not in ACTIVITY),
            ("activity",): sum(state.lost for p, state in counts.items() if p in ACTIVITY),
        },
    }


@dataclass(frozen=True)
class Figures:
    """What one role used, from one source; None for what it does not know."""

    cpu_seconds: float | None
    memory_bytes: float | None
    pressure: Mapping[str, float | None]


def usage_from_cgroup(used: usage.Usage) -> Figures:
    """The figures of a cgroup's own files."""
    stalled = {"cpu": used.pressure.cpu, "memory": used.pressure.memory, "io": used.pressure.io}
    return Figures(used.cpu.seconds, used.memory.bytes, stalled)


def usage_from_report(report: Any) -> Figures:
    """The supervisor's figures of a role. What is not there or no number is unknown."""
    report = report if isinstance(report, dict) else {}
    return Figures(_number(report.get("cpu_seconds")), _number(report.get("memory_bytes")), {})


def of_usage(cgroups: Mapping[str, usage.OpenFiles], reported: Mapping[str, Figures]) -> Readings:
    """Usage by role. A role of which nothing is known yet has 0; a figure that cannot be had is left out."""
    cpu: dict[tuple[str, ...], float | None] = {}
    memory: dict[tuple[str, ...], float | None] = {}
    pressure: dict[tuple[str, ...], float | None] = {}
    for role, first in ((role, usage_from_cgroup(files.usage())) for role, files in cgroups.items()):
        second = reported.get(role)
        both = (first, second) if second else (first,)
        cpu[(role,)] = next((f.cpu_seconds for f in both if f.cpu_seconds is not None), None)
        memory[(role,)] = next((f.memory_bytes for f in both if f.memory_bytes is not None), None)
        if role in STARTED:
            pressure.update({(role, name): first.pressure.get(name) for name in RESOURCES})
    return {
        "homebound_cpu_seconds_total": cpu,
        "homebound_memory_bytes": memory,
        "homebound_pressure_stalled_seconds_total": pressure,
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value >= 0 else None
