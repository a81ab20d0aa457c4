# SPDX-License-Identifier: Apache-2.0
"""What `homebound status` prints: the daemon's state as one JSON document, composed when somebody asks.

A wall is reported as active because the canary tried it, with the time of that trial; what the settings
say is not asked. May import: books.accounts, books.anchor, rooms.areas, rooms.canary, events, rooms.instance,
books.ledger, supervisor.roster, settings, books.spending,
rooms.bounds, rooms.walls, kernel.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from homebound import __version__
from homebound.books import accounts, ledger, spending
from homebound.books.anchor import Kept
from homebound.events import Direction, Role, Rule, Traffic, TrafficKey, Verdict
from homebound.kernel import calls, calltimes, maps, resources
from homebound.rooms import areas, bounds
from homebound.rooms.canary import LSM_WALL
from homebound.rooms.instance import Instance

if TYPE_CHECKING:
    from homebound.supervisor.daemon import Supervisor

TrafficTable = Mapping[TrafficKey, Traffic]
DeniedTable = Mapping[tuple[Role, Rule], int]

K = TypeVar("K")
V = TypeVar("V")

SCHEMA = 1
ANSWER_SECONDS = 1.0
# Which reports each role may make. Anything else it says is not believed.
REPORTS: Mapping[Role, frozenset[str]] = {
    Role.GUARD: frozenset({"started", "released", "refused", "ledger"}),
    Role.GATEWAY: frozenset(
        {"declare", "unsent", "connected", "disconnected", "acknowledged", "refused", "dropped", "warning"}
    ),
    Role.WATCHER: frozenset(),
}
SHOWN_ROLES = (Role.SUPERVISOR, Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY)
# How the detail of a wall begins that this kernel does not have.
NOT_HERE = "not here:"
CANARY_WALLS = ("namespaces", "seccomp", "landlock", "cgroup-bpf", LSM_WALL)


def released_before(file: Path, kept: Kept) -> Iterator[dict[str, Any]]:
    """Reports on the last releases of earlier lives: their updates may still wait in the outbox.

    Raises ViolationPresent when the ledger is older than what was kept of it elsewhere.
    """
    kept.check(file)
    if not file.exists():
        return
    with closing(ledger.open_reader(file)) as reader:
        last = deque((entry for entry in reader.entries() if entry.kind == "release"), accounts.TASKS_KEPT)
    for entry in last:
        size = {"payload_bytes": entry.payload_bytes, "arrays": _arrays(entry.details)}
        yield {"type": "released_before", "task": entry.task, "round": entry.round, **size}


def _arrays(details: str) -> int:
    """Of how many arrays a release is; entries of an older version do not say."""
    count = json.loads(details).get("arrays", 0)
    return count if type(count) is int and count > 0 else 0


def answer(listener: socket.socket, daemon: Supervisor) -> None:
    """Give whoever asks at the status socket one document, one line, and close."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return
    with connection:
        connection.settimeout(ANSWER_SECONDS)
        with suppress(OSError):  # whoever asked went away
            connection.sendall(json.dumps(compose(daemon), allow_nan=False).encode() + b"\n")


def periodic(daemon: Supervisor) -> Iterator[dict[str, Any]]:
    """What the watcher needs for its metrics and has no right to look at itself."""
    if daemon.walls is not None:
        with suppress(OSError):  # nothing is lost: the next look adds it
            daemon.walls.probes.look_at_threads()
    yield {"type": "usage", "roles": {role.label: _used(daemon.place, role) for role in SHOWN_ROLES}}
    yield {"type": "walls", "walls": {name: wall["active"] for name, wall in walls(daemon).items()}}
    yield {"type": "training_stopped", "stopped": bool(daemon.life.barred)}
    yield {"type": "canary_interval", "seconds": daemon.config.canary.interval_seconds}
    if daemon.roster.kept.report:
        yield daemon.roster.kept.report
    trials = daemon.life.trials
    if trials.trials and not trials.fallen(daemon.config):
        # The canary flies before the first watcher lives, and a new watcher knows nothing of the old one's.
        yield {"type": "canary", "time": trials.time, "out": 0, "tried": len(trials.trials)}
    if daemon.uplinks is not None:
        yield daemon.uplinks.report()
    if daemon.sockets is not None and daemon.walls is not None:
        daemon.sockets.allow(daemon.walls.dial, daemon.config.federation.port)
        yield daemon.sockets.report()
    if daemon.walls is not None:
        yield {"type": "programs", "programs": [vars(state) for state in daemon.walls.probes.programs()]}


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
    traffic = maps.read_traffic(daemon.walls.probes.map_fd("traffic")) if daemon.walls else {}
    # Bytes are declared before they leave: once the gateway is heard, what was counted is declared.
    daemon.listen(Role.GATEWAY)
    life, books = daemon.life, daemon.accounts
    denied = maps.read_denied(daemon.walls.probes.map_fd("denied")) if daemon.walls else {}
    stream = _gateway_stream(traffic)
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
        "roles": _roles(daemon, traffic, denied),
        "walls": walls(daemon),
        "dangerous_calls": _traced(daemon, "dangerous", calls.read_dangerous),
        "call_times": _call_times(daemon),
        "programs": [vars(state) for state in daemon.walls.probes.programs()] if daemon.walls else [],
        "loader": daemon.walls.probes.loader if daemon.walls else "",
        "site_probes": list(daemon.walls.site.states) if daemon.walls else [],
        "sockets": daemon.sockets.document() if daemon.sockets else {},
        "uplinks": daemon.uplinks.document(traffic, daemon.config.mode) if daemon.uplinks else {},
        "released": {"updates": books.released, "payload_bytes": books.released_bytes},
        "tasks": [_task(task) for task in books.tasks],
        "refused": dict(books.refused),
        **spending.document(daemon.roster.kept.report, daemon.roster.kept.trouble),
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
        "credit": {cell.label: n for cell, n in daemon.walls.probes.credit().items()} if daemon.walls else {},
        "denied": _denied(denied),
        "denied_recent": list(life.recent)[-64:],
        "resource_source": _used(daemon.place, Role.SUPERVISOR)["source"],
        "limits": bounds.document(daemon.place.cgroup(Role.TRAINER).path, daemon.config.trainer),
    }


def _gateway_stream(traffic: TrafficTable) -> int:
    """TCP payload that the gateway sent."""
    return sum(
        cell.stream_bytes
        for key, cell in traffic.items()
        if key.role is Role.GATEWAY and key.direction is Direction.TRANSMIT
    )


def gateway_stream(daemon: Supervisor) -> int:
    """TCP payload that the gateway sent, by the kernel's count of now."""
    if daemon.walls is None:
        return 0
    return _gateway_stream(maps.read_traffic(daemon.walls.probes.map_fd("traffic")))


def unaccounted(daemon: Supervisor, sent: int) -> int:
    """Bytes of those ``sent`` that nobody explains, after all that the gateway was heard to declare."""
    return accounts.reconcile(sent, daemon.accounts).bytes


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


def _roles(daemon: Supervisor, traffic: TrafficTable, denied: DeniedTable) -> dict[str, Any]:
    processes = _traced(daemon, "processes", maps.read_processes)
    used = _traced(daemon, "resources", resources.read)
    return {
        role.label: {
            **_role(daemon, role, traffic, denied),
            "processes": asdict(processes[role]) if role in processes else None,
            "resources": asdict(used[role]) if role in used else None,
        }
        for role in SHOWN_ROLES
    }


def _role(daemon: Supervisor, role: Role, traffic: TrafficTable, denied: DeniedTable) -> dict[str, Any]:
    member = daemon.roster.members.get(role)
    cells = [
        (key, cell) for key, cell in traffic.items() if key.role is role and key.verdict is Verdict.ALLOWED
    ]
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


def _traced(daemon: Supervisor, name: str, read: Callable[[int], Mapping[K, V]]) -> Mapping[K, V]:
    """What a wanted program counted; nothing where none is attached that fills this map."""
    found = daemon.walls.probes.maps if daemon.walls else {}
    return read(found[name]) if name in found else {}


def _call_times(daemon: Supervisor) -> dict[str, Any]:
    """How long the trainer's calls took, by class."""
    times = _traced(daemon, "call_times", calltimes.read)
    return {kind.label: asdict(each) for kind, each in times.items() if each != calltimes.NONE}


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
    trials = daemon.life.trials
    found: dict[str, dict[str, Any]] = {}
    for wall in CANARY_WALLS:
        mine = [trial for trial in trials.trials if trial.wall == wall]
        got_out = [trial.name for trial in mine if not trial.held]
        detail = f"got out: {', '.join(got_out)}" if got_out else f"{len(mine)} attempts refused"
        found[wall] = {"active": trials.holds(wall), "detail": detail}
    if lacking := _hooks_lacking(daemon):
        found[LSM_WALL]["detail"] = lacking
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


def _hooks_lacking(daemon: Supervisor) -> str:
    """What is missing of the programs on security hooks: many kernels have none."""
    every = areas.states(daemon.walls.probes) if daemon.walls else ()
    lacking = [state for state in every if not state.attached]
    if not lacking:
        return ""
    some = "" if len(lacking) == len(every) else f" {len(lacking)} of {len(every)} programs:"
    return f"{NOT_HERE}{some} {lacking[0].reason}"


def _canary(daemon: Supervisor) -> dict[str, Any]:
    trials = daemon.life.trials
    return {
        "time": trials.time,
        "age_seconds": daemon.clock() - trials.moment if trials.trials else None,
        "tried": len(trials.trials),
        "out": len([trial for trial in trials.trials if not trial.held]),
    }


def line(daemon: Supervisor) -> str:
    """The state in one line, for ``systemctl status``."""
    books, life = daemon.accounts, daemon.life
    federation = (
        "connected" if books.federation.connected else f"away ({books.federation.reason or 'not yet'})"
    )
    text = f"{life.state}; federation {federation}; {books.released} updates released"
    return f"{text}; {life.problem}" if life.problem else text
