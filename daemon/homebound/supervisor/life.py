# SPDX-License-Identifier: Apache-2.0
"""What the supervisor remembers besides the accounts: state, the canary's last flight, violations, failures.

May import: rooms.canary, events, settings, supervisor.repeats, supervisor.silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from homebound.events import Role
from homebound.rooms.canary import Trial
from homebound.settings import Settings
from homebound.supervisor.repeats import Repeats
from homebound.supervisor.silence import Silence

RESTART_FIRST, RESTART_MOST = 0.5, 30.0
# A role that ran this long is trusted again: its next restart is quick.
STEADY_SECONDS = 60.0
RECENT = 256


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
        excused = {"cgroup-bpf", "bpf-lsm"} if config.mode == "observe" else set()
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


@dataclass
class Life:
    """What the daemon remembers besides the accounts."""

    since: float
    state: str = "starting"
    trials: Trials = field(default_factory=Trials)
    violations: dict[tuple[str, str], Violation] = field(default_factory=dict)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    failures: dict[Role, int] = field(default_factory=dict)
    silence: Silence = field(default_factory=Silence)
    repeats: Repeats = field(default_factory=Repeats)
    # Whether the watcher that runs now has been heard.
    watched: bool = False
    trainer_wanted: bool = False
    # Why the federation is away, as it was last told.
    away: str = ""
    barred: str = ""
    # What does not work now, by what it is about: a role, or the app.
    troubles: dict[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """One line for a person; empty when all is well."""
        return self.barred or "; ".join(self.troubles.values())

    def hear(self, report: Mapping[str, Any]) -> bool:
        """Take what a role reports; whether it is news: a federation that stays away is told once."""
        kind = report.get("type")
        if kind == "started":
            self.state = "training"
        elif kind in ("released", "refused") and self.state == "training":
            self.state = "waiting"
        if kind == "released":
            self.troubles.pop("app", None)
        known, away = self.away, str(report.get("reason"))
        if kind in ("connected", "disconnected"):
            self.away = away if kind == "disconnected" else ""
        return kind != "disconnected" or away != known

    def note(self, verdict: Mapping[str, Any], now: float) -> None:
        """Keep a verdict of the watcher as a violation that stands until the daemon is started again."""
        key = (str(verdict.get("rule")), str(verdict.get("role")))
        known = self.violations.get(key, Violation(*key))
        self.violations[key] = known.again(int(verdict.get("count", 1)), now)

    def pause(self, role: Role) -> float:
        """Seconds until a role is started again; doubles with each failure in a row."""
        count = self.failures[role] = self.failures.get(role, 0) + 1
        # A large exponent would overflow a float after a week of failures.
        return min(RESTART_MOST, RESTART_FIRST * 2.0 ** min(count - 1, 16))

    def ended(self, role: Role, seconds: float) -> None:
        """A role ended after it ran for this long: one that ran steadily starts with a clean record."""
        if seconds > STEADY_SECONDS:
            self.failures.pop(role, None)
