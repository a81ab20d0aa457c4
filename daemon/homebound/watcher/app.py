# SPDX-License-Identifier: Apache-2.0
"""The watcher: events and counters -> policy -> metrics, verdicts and, if need be, a frozen trainer.

A process without any right of its own: maps, cgroup files, the listening socket and the link to the
supervisor are handed-over descriptors. It sees no data. If the supervisor is gone it ends the trainer
and itself. May import: books.accounts, control, watcher.endpoint, errors, events, metrics, watcher.lookouts,
watcher.page, watcher.policy, watcher.readings, watcher.siteprobes, watcher.sightings, books.spending,
kernel.maps, kernel.usage.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from homebound import __version__, control
from homebound.books import accounts, spending
from homebound.errors import InternalError
from homebound.events import Event, Kind
from homebound.kernel import maps
from homebound.kernel.usage import OpenFiles
from homebound.metrics import STARTED, WALLS, shown_kind, shown_reason, violated_rule
from homebound.watcher import lookouts, page, policy, readings, siteprobes
from homebound.watcher.policy import Action, CanaryResult, Observation, Strange, Verdict
from homebound.watcher.recording import Metrics
from homebound.watcher.sightings import Sightings

# An event wakes at once; this is for what makes no event: an allowed byte of a role that must send none.
LOOK_SECONDS = 0.5
BEAT_SECONDS = 1.0
# How often the way from a program through the ring buffer to here is tried.
PROOF_SECONDS = 5.0
# In a flood of events we look this often, and the ring buffer overflows rather than our processor time.
PAUSE_SECONDS = 0.05
# A main loop that did not turn for this long looks at nothing.
HEALTH_SECONDS = 5.0
# A supervisor that takes no message for this long is as good as gone.
DEAF_SECONDS = 5.0
RECENT = 256
# Explanations sent on in one look. The counters have them all.
TOLD_AT_ONCE = 32
# An event is about 250 bytes of JSON; a message holds 65536.
EVENTS_IN_MESSAGE = 128


class Stream(Protocol):
    """Events of the ring buffer, as kernel.maps.EventStream gives them."""

    undecoded: dict[Any, int]

    def poll(self, timeout_ms: int) -> list[Event]:
        """All that are there."""


@dataclass(frozen=True)
class Handed:
    """What the supervisor handed over: descriptors by name, and facts that do not change."""

    name: str
    mode: policy.Mode
    maps: Mapping[str, int]
    listen_fd: int
    files: Mapping[str, int] = field(default_factory=dict)
    cgroups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    features: Mapping[str, bool] = field(default_factory=dict)
    revision: str = ""
    canary_interval_seconds: float = 0.0
    loader: str = ""
    site: Mapping[str, Any] = field(default_factory=dict)


def parse(text: str) -> Handed:
    """The settings document. Keys of others are passed over. Raises InternalError."""
    try:
        document = json.loads(text)
        known = {key: value for key, value in document.items() if key in Handed.__dataclass_fields__}
        return Handed(**known)
    except (ValueError, TypeError, AttributeError) as error:
        raise InternalError(f"the watcher's settings are malformed: {error}") from error


class Watcher:
    """The main loop. ``clock`` is CLOCK_MONOTONIC in seconds (as the events' times), ``wall_clock`` seconds
    since the epoch. ``cgroups`` must hold the trainer's."""

    def __init__(
        self,
        handed: Handed,
        link: socket.socket,
        counters: readings.Counters,
        stream: Stream,
        cgroups: Mapping[str, OpenFiles],
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ask_for_event: Callable[[], None] = maps.ask_for_event,
    ) -> None:
        self._name, self._mode = handed.name, handed.mode
        self._link = link
        self._link.setblocking(False)
        self._stream = stream
        self._cgroups = cgroups
        self._clock = clock
        self._wall_clock = wall_clock
        self._sightings = Sightings(counters, handed.mode)
        self._accounts = accounts.Accounts(baseline=self._sightings.first.stream)
        # The supervisor's last words; replaced as a whole, because the server's threads read them.
        self._usage: Mapping[str, readings.Figures] = {}
        self._programs: Mapping[str, readings.ProgramFigures] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._totals: dict[tuple[str, str], int] = {}
        self._undecoded = self._asked = 0
        self._backlog: deque[control.Message] = deque()
        self._deaf_since: float | None = None
        self._alive = self._proved = clock()
        self._ask_at = self._alive
        self._ask_for_event = ask_for_event
        self._metrics = Metrics(
            registry,
            {
                "traffic": lambda: readings.of_traffic(counters.traffic(), handed.mode),
                "uplink": lambda: readings.of_uplink(counters.uplink(), handed.mode),
                "denied": lambda: readings.of_denied(counters.denied()),
                "events": lambda: readings.of_event_path(self._clock() - self._proved),
                "calls": lambda: readings.of_calls(counters.calls()),
                "opens": lambda: readings.of_opens(counters.opens()),
                "processes": lambda: readings.of_processes(counters.processes()),
                "resources": lambda: lookouts.of_resources(counters.resources(), handed.features),
                "call_times": lambda: lookouts.of_call_times(counters.call_times()),
                "programs": lambda: readings.of_programs(counters.programs(), self._programs),
                "usage": lambda: readings.of_usage(cgroups, self._usage),
            },
        )
        self._metrics.set("homebound_build_info", 1, __version__, handed.revision)
        self._metrics.set("homebound_enforce", handed.mode == "enforce")
        self._metrics.set("homebound_canary_interval_seconds", handed.canary_interval_seconds)
        if handed.loader:
            self._metrics.set("homebound_bpf_loader_info", 1, handed.loader)
        self._metrics.set("homebound_site_series_cut", handed.site.get("cut", 0))
        for probe, loaded in handed.site.get("loaded", {}).items():
            self._metrics.set("homebound_site_probe_loaded", loaded, probe)
        registry.register(siteprobes.Collector(siteprobes.sources(handed.site), self._missed))
        for feature, there in handed.features.items():
            self._metrics.set("homebound_kernel_feature", bool(there), feature)

    def _missed(self) -> None:
        self._metrics.add("homebound_collect_errors_total")

    def healthy(self) -> bool:
        """Whether the main loop turns. Called from the server's threads."""
        return self._clock() - self._alive < HEALTH_SECONDS

    def glance(self) -> page.Glance:
        """What the page shows besides the metrics. Called from the server's threads."""
        return page.Glance(self._name, self._accounts.tasks, self._recent.copy())

    def run(self, ring_fd: int) -> None:
        """Until the supervisor says stop. ``ring_fd`` is readable when the stream has events.

        Raises ControlClosed when the supervisor is gone, OSError when the counters cannot be read. However
        it ends other than by stop, the trainer is frozen and killed.
        """
        stopped = False
        try:
            stopped = self._turn_until_stop(ring_fd)
        finally:
            if not stopped:
                self.end_trainer()

    def end_trainer(self) -> None:
        """Freeze every role that can be (the trainer), then kill it: nobody would ever thaw it."""
        for files in self._cgroups.values():
            files.freeze()
            files.kill()

    def _turn_until_stop(self, ring_fd: int) -> bool:
        look_at = beat_at = drain_at = self._clock()
        while True:
            now = self._alive = self._clock()
            if now >= drain_at and self._explain(self._stream.poll(0)):
                drain_at, look_at = now + PAUSE_SECONDS, now
            if self._listen():
                return True
            if now >= look_at:
                look_at = now + LOOK_SECONDS
                for observation in self._sightings.look(self._accounts, now):
                    self._carry_out(observation)
                if self._sightings.asked not in (0, self._asked) and not self._backlog:
                    self._asked = self._sightings.asked
                    self._tell({"type": "question", "number": self._asked})
                if self._sightings.is_balanced(now):
                    self._metrics.set("homebound_reconciled_timestamp_seconds", self._wall_clock())
            if now >= beat_at:
                beat_at = now + BEAT_SECONDS
                self._beat(now)
            self._flush()
            pausing = drain_at > now
            fds = [self._link.fileno()] if pausing else [self._link.fileno(), ring_fd]
            self._wait(fds, min(look_at, beat_at, drain_at if pausing else look_at))

    def _wait(self, fds: Sequence[int], until: float) -> None:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        poller.poll(max(0.0, until - self._clock()) * 1000)

    # --- kernel ----------------------------------------------------------------------------------

    def _explain(self, events: Sequence[Event]) -> bool:
        """Count events and keep what they tell; whether there were any."""
        undecoded = sum(self._stream.undecoded.values())
        self._metrics.add("homebound_events_undecoded_total", by=undecoded - self._undecoded)
        self._undecoded = undecoded
        for event in events:
            self._metrics.add("homebound_events_total", shown_kind(event.kind.label))
            if event.kind is Kind.CANARY:
                self._proved = event.time_ns / 1e9
        against = [event for event in events if event.rule is not None]
        told = [self._describe(event) for event in against[-RECENT:]]
        self._recent.extend(told)
        if told:
            self._tell({"type": "denied", "events": told[-TOLD_AT_ONCE:], "all": len(against)})
        return bool(events)

    def _describe(self, event: Event) -> dict[str, Any]:
        return readings.describe(event, self._wall_clock() - self._clock() + event.time_ns / 1e9)

    def _carry_out(self, observation: Observation) -> None:
        """Ask policy, act, count, tell."""
        verdict = policy.decide(observation, self._mode)
        if not verdict.violations:
            return
        if verdict.enforced:
            self._stop(verdict)
        self._metrics.add(
            "homebound_violations_total",
            verdict.role.label,
            violated_rule(verdict.role.label, verdict.rule),
            by=verdict.violations,
        )
        if verdict.rule == "unaccounted":
            self._metrics.add("homebound_transmit_unaccounted_bytes_total", by=verdict.count)
        key = (verdict.role.label, verdict.rule)
        total = self._totals[key] = self._totals.get(key, 0) + verdict.count
        self._tell(
            {
                "type": "verdict",
                "action": verdict.action.value,
                "enforced": verdict.enforced,
                "role": verdict.role.label,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "new": verdict.count,
                "count": total,
            }
        )

    def _stop(self, verdict: Verdict) -> None:
        """Freeze, then kill if the verdict is that. A role whose files we were not given is left to the
        supervisor, who hears of it next."""
        for files in (self._cgroups.get(role.label) for role in verdict.stops):
            if files is None or verdict.action not in (Action.FREEZE, Action.KILL):
                continue
            files.freeze()
            if verdict.action is Action.KILL:
                files.kill()

    # --- supervisor ------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Take all messages that wait; True for stop. Raises ControlClosed when the link is closed."""
        while True:
            try:
                message, fds = control.receive(self._link)
            except BlockingIOError:
                return False
            for fd in fds:
                os.close(fd)  # all we need came at the start
            kind = message.get("type")
            if kind == "stop":
                return True
            if kind == "recent":
                self._tell_recent()
            elif kind == "answer":
                for seen in self._sightings.answered(message.get("number"), self._accounts, self._clock()):
                    self._carry_out(seen)
            elif kind == "report" and isinstance(message.get("report"), dict):
                self._absorb(message["report"])

    def _absorb(self, report: Mapping[str, Any]) -> None:
        kind = report.get("type")
        if kind == "usage" and isinstance(report.get("roles"), dict):
            used = report["roles"].items()
            self._usage = {str(role): readings.usage_from_report(figures) for role, figures in used}
        elif kind == "programs":
            self._programs = readings.programs_from_report(report.get("programs"))
        elif kind == "walls" and isinstance(report.get("walls"), dict):
            for wall, held in report["walls"].items():
                if wall in WALLS:
                    self._metrics.set("homebound_wall_active", held is True, wall)
        elif kind == "uplinks":
            missing = int(report.get("found") or 0) - int(report.get("metered") or 0)
            self._metrics.set("homebound_uplinks_unmetered", missing)
        elif kind == "sockets":
            self._metrics.set("homebound_gateway_connections", int(report.get("connected") or 0))
            self._carry_out(Strange(int(report.get("new_unknown") or 0)))
        elif kind == "training_stopped":
            self._metrics.set("homebound_training_stopped", report.get("stopped") is True)
        elif kind == "canary_interval" and isinstance(report.get("seconds"), int | float):
            self._metrics.set("homebound_canary_interval_seconds", report["seconds"])
        elif kind == "ledger":
            for name, value, labels in spending.readings(report):
                self._metrics.set(name, value, *labels)
        elif kind == "canary":
            self._judge_canary(report)
        else:
            before = self._accounts
            self._accounts = accounts.fold(before, report, self._clock())
            self._count(report, before, self._accounts)

    def _judge_canary(self, report: Mapping[str, Any]) -> None:
        out, moment = report.get("out"), report.get("time")
        if not isinstance(out, int) or not isinstance(moment, int | float):
            return
        if out == 0:
            self._metrics.set("homebound_canary_timestamp_seconds", moment)
        self._carry_out(CanaryResult(out))

    def _count(self, report: Mapping[str, Any], before: accounts.Accounts, after: accounts.Accounts) -> None:
        """What one report changed, as metrics."""
        metrics = self._metrics
        metrics.add("homebound_reports_malformed_total", by=max(0, after.malformed - before.malformed))
        metrics.set("homebound_federation_connected", after.federation.connected)
        for role in STARTED:
            old, new = (books.roles.get(role, accounts.RoleState()) for books in (before, after))
            metrics.set("homebound_role_up", new.up, role)
            metrics.add("homebound_role_restarts_total", role, by=max(0, new.restarts - old.restarts))
        task = after.task(str(report.get("task", "")))
        if task is None or after.malformed > before.malformed or report.get("type") == "accounts":
            return
        is_training = task.kind == "train"
        if after.released > before.released:
            metrics.add("homebound_updates_total")
            metrics.observe("homebound_update_bytes", task.payload_bytes)
            if is_training and task.finished is not None:
                metrics.observe("homebound_round_seconds", task.finished - task.started)
        elif sum(after.refused.values()) > sum(before.refused.values()):
            metrics.add("homebound_updates_total")
            metrics.add("homebound_updates_rejected_total", shown_reason(task.code))
        elif after.acknowledged > before.acknowledged and is_training:
            metrics.set("homebound_round_last_success_timestamp_seconds", self._wall_clock())

    def _tell_recent(self) -> None:
        events = list(self._recent)
        for start in range(0, max(1, len(events)), EVENTS_IN_MESSAGE):
            part = events[start : start + EVENTS_IN_MESSAGE]
            last = start + EVENTS_IN_MESSAGE >= len(events)
            self._tell({"type": "recent", "events": part, "last": last})

    def _beat(self, now: float) -> None:
        if now >= self._ask_at:
            self._ask_at = now + PROOF_SECONDS
            self._ask_for_event()
        if not self._backlog:
            self._tell({"type": "beat", "time": now})

    def _tell(self, message: control.Message) -> None:
        self._backlog.append(message)

    def _flush(self) -> None:
        """Send what waits. Raises ControlClosed when the supervisor is gone or has long stopped to read."""
        while self._backlog:
            try:
                control.send(self._link, self._backlog[0])
            except BlockingIOError:
                break
            self._backlog.popleft()
            self._deaf_since = None
        if not self._backlog:
            return
        now = self._clock()
        self._deaf_since = now if self._deaf_since is None else self._deaf_since
        if now - self._deaf_since > DEAF_SECONDS:
            raise control.ControlClosed("the supervisor does not listen")
