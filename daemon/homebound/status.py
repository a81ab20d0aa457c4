# SPDX-License-Identifier: Apache-2.0
"""What `homebound status` prints: the daemon's state as one JSON document, composed when somebody asks.

A wall is reported as active because the canary tried it, with the time of that trial; what the settings
say is not asked. May import: accounts, canary, events, instance, roster, settings, walls, kernel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from homebound import __version__, accounts
from homebound.canary import Trial
from homebound.events import Direction, Role, Rule, Traffic, TrafficKey, Verdict
from homebound.instance import Instance
from homebound.kernel import maps
from homebound.settings import Settings

if TYPE_CHECKING:
    from homebound.supervisor import Supervisor

TrafficTable = Mapping[TrafficKey, Traffic]
DeniedTable = Mapping[tuple[Role, Rule], int]

SCHEMA = 1
# Which reports each role may make. Anything else it says is not believed.
REPORTS: Mapping[Role, frozenset[str]] = {
    Role.GUARD: frozenset({"started", "released", "refused"}),
    Role.GATEWAY: frozenset({"declare", "unsent", "connected", "disconnected", "acknowledged", "refused"}),
    Role.WATCHER: frozenset(),
}
SHOWN_ROLES = (Role.SUPERVISOR, Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY)
CANARY_WALLS = ("namespaces", "seccomp", "landlock", "cgroup-bpf")


@dataclass(frozen=True)
class Trials:
    """The canary's last flight: seconds since the epoch, monotonic seconds, and each trial's outcome."""

    time: float = 0.0
    moment: float = 0.0
    trials: tuple[Trial, ...] = ()

    def holds(self, wall: str) -> bool:
        """Whether every trial of this wall was made and refused."""
        mine = [trial for trial in self.trials if trial.wall == wall]
        return bool(mine) and all(trial.held for trial in mine)

    def fallen(self, config: Settings) -> list[Trial]:
        """Trials that got out through a wall that the settings require.

        In observe mode the BPF programs count and let through, so nothing is asked of them.
        """
        excused = {"cgroup-bpf"} if config.mode == "observe" else set()
        required = set(config.require) - excused
        return [trial for trial in self.trials if not trial.held and trial.wall in required]


@dataclass(frozen=True)
class Violation:
    """One rule that one role broke, how often, and when last (seconds since the epoch)."""

    rule: str
    role: str
    count: int = 0
    last: float = 0.0

    def again(self, count: int, now: float) -> Violation:
        return replace(self, count=max(count, self.count + 1), last=now)


def encode(document: Mapping[str, Any]) -> bytes:
    """The document's bytes, one line."""
    return json.dumps(document, allow_nan=False).encode() + b"\n"


def usage(place: Instance) -> dict[str, Any]:
    """What each role used, for the watcher where it cannot read the files itself."""
    return {role.label: _used(place, role) for role in SHOWN_ROLES}


def _used(place: Instance, role: Role) -> dict[str, Any]:
    cgroup = place.cgroup(role)
    cpu, memory = cgroup.cpu(), cgroup.memory()
    return {
        "cpu_seconds": cpu.seconds,
        "memory_bytes": memory.bytes,
        "source": {"cpu": cpu.source, "memory": memory.source},
    }


def compose(daemon: Supervisor) -> dict[str, Any]:
    """The whole document. Reads the kernel's counters now."""
    life, books = daemon.life, daemon.accounts
    traffic = maps.read_traffic(daemon.walls.probes.map_fd("traffic")) if daemon.walls else {}
    denied = maps.read_denied(daemon.walls.probes.map_fd("denied")) if daemon.walls else {}
    stream = sum(
        cell.stream_bytes for key, cell in traffic.items() if key.role is Role.GATEWAY and key.direction is Direction.TRANSMIT
    )
    open_bytes = accounts.reconcile(stream, books)
    newest = books.tasks[-1] if books.tasks else None
    return {
        "schema": SCHEMA,
        "name": daemon.config.name,
        "mode": daemon.config.mode,
        "state": life.state,
        "problem": life.problem,
        "version": __version__,
        "since": life.since,
        "round": {"number": newest.round, "kind": newest.kind, "state": newest.state} if newest else None,
        "rounds_completed": books.acknowledged,
        "roles": {role.label: _role(daemon, role, traffic, denied) for role in SHOWN_ROLES},
        "walls": walls(daemon),
        "released": {"updates": books.released, "payload_bytes": books.released_bytes},
        "tasks": [_task(task) for task in books.tasks],
        "refused": dict(books.refused),
        "declared_stream_bytes": books.declared_bytes,
        "kernel_stream_bytes": stream,
        "unaccounted_bytes": open_bytes.bytes,
        "violations": [vars(violation) for violation in life.violations.values()],
        "canary": _canary(daemon),
        "federation": {
            "connected": books.federation.connected,
            "address": daemon.config.federation.address,
            "reason": books.federation.reason,
            "hint": books.federation.hint,
        },
        "denied": _denied(denied),
        "denied_recent": list(life.recent)[-64:],
        "resource_source": _used(daemon.place, Role.SUPERVISOR)["source"],
    }


def _task(task: accounts.Task) -> dict[str, Any]:
    return {
        "task": task.task,
        "round": task.round,
        "kind": task.kind,
        "state": task.state,
        "code": task.code,
        "payload_bytes": task.payload_bytes,
        "pushed_bytes": task.pushed_bytes,
    }


def _role(
    daemon: Supervisor, role: Role, traffic: TrafficTable, denied: DeniedTable
) -> dict[str, Any]:
    member = daemon.roster.members.get(role)
    cells = [(key, cell) for key, cell in traffic.items() if key.role is role and key.verdict is Verdict.ALLOWED]
    alive = member is not None or role is Role.SUPERVISOR
    return {
        "state": "running" if alive else "stopped",
        "pid": member.facts.pid if member else 0,
        "transmit_bytes": sum(cell.bytes for key, cell in cells if key.direction is Direction.TRANSMIT),
        "receive_bytes": sum(cell.bytes for key, cell in cells if key.direction is Direction.RECEIVE),
        "denied": sum(count for (who, _), count in denied.items() if who is role),
        "restarts": _restarts(daemon, role),
        **_used(daemon.place, role),
    }


def _restarts(daemon: Supervisor, role: Role) -> int:
    """How often a role was started again."""
    known = daemon.accounts.roles.get(role.label)
    return known.restarts if known else 0


def _denied(denied: DeniedTable) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (role, rule), count in denied.items():
        if count:
            table.setdefault(role.label, {})[rule.label] = count
    return table


def walls(daemon: Supervisor) -> dict[str, Any]:
    """Each wall: whether it was seen to hold, and by what."""
    trials, found = daemon.life.trials, {}
    for wall in CANARY_WALLS:
        mine = [trial for trial in trials.trials if trial.wall == wall]
        got_out = [trial.name for trial in mine if not trial.held]
        detail = f"got out: {', '.join(got_out)}" if got_out else f"{len(mine)} attempts refused"
        found[wall] = {"active": trials.holds(wall), "detail": detail}
    looked = sorted(role.label for role in daemon.roster.members)
    for wall in ("users", "no-inherited-fd", "no-core-dump"):
        # A role that failed the look from outside was ended, so whoever runs has passed it.
        found[wall] = {"active": bool(looked), "detail": "seen on " + (", ".join(looked) or "no role")}
    no_swap = daemon.walls is not None and daemon.walls.no_swap
    found["no-swap"] = {
        "active": no_swap,
        "detail": "memory.swap.max is 0" if no_swap else "this host's cgroup v2 has no memory controller",
    }
    return found


def _canary(daemon: Supervisor) -> dict[str, Any]:
    trials = daemon.life.trials
    return {
        "time": trials.time,
        "age_seconds": daemon.clock() - trials.moment if trials.trials else None,
        "tried": len(trials.trials),
        "out": len([trial for trial in trials.trials if not trial.held]),
    }
