# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: walls first, then the roles, then watch over them; stop all when told or when in doubt.

Root, small, without data and without network. It decides when a role starts and ends, never what leaves.
No watching, no training: when the watcher is silent, a wall falls or the canary gets out, the trainer is
frozen and killed, and the daemon stays up to say so. May import: everything but the roles' own rooms.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from homebound import accounts, apptree, control, instance, journal, launch, roles, settings, status, walls
from homebound.errors import ConfigError, HomeboundError
from homebound.events import Role
from homebound.roster import Member, Roster

# The watcher speaks every second; a silence of this many seconds freezes the trainer.
SILENCE_SECONDS = 3.0
USAGE_SECONDS = 5.0
# How long the roles have to say goodbye. The gateway tells the federation within 2 s.
GOODBYE_SECONDS = 2.5
RESTART_FIRST, RESTART_MOST = 0.5, 30.0
# A role that ran this long is trusted again: its next restart is quick.
STEADY_SECONDS = 60.0
RECENT = 256


@dataclass
class Life:
    """What the daemon remembers besides the accounts."""

    since: float
    state: str = "starting"
    trials: status.Trials = field(default_factory=status.Trials)
    violations: dict[tuple[str, str], status.Violation] = field(default_factory=dict)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    restarts: dict[Role, int] = field(default_factory=dict)
    last_beat: float = 0.0
    trainer_wanted: bool = False
    barred: str = ""
    problem: str = ""


class Supervisor:
    """One device. ``clock`` is monotonic seconds, ``wall_clock`` seconds since the epoch."""

    def __init__(
        self,
        config: settings.Settings,
        place: instance.Instance,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.place = place
        self.clock = clock
        self.wall_clock = wall_clock
        self.users = roles.identities(config)
        self.roster = Roster(config, place, self.users, clock)
        self.life = Life(since=wall_clock())
        self.accounts = accounts.Accounts()
        self.selector = selectors.DefaultSelector()
        self.due: dict[str, float] = {}
        self.walls: walls.Walls | None = None
        self.stopping = False
        self.log_left = config.trainer.log_bytes
        self.log_fd = -1

    # --- start ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Leaves no process, mount, cgroup or pin behind, whatever happens."""
        self._catch_signals()
        try:
            self._raise_walls()
            self._try_walls()
            self._start_watcher()
            self._start_data_path()
            if self.config.trainer.warm:
                self._start_trainer()
            self.life.state = "waiting"
            journal.started(self.config.name, self.config.mode)
            while not self.stopping:
                self._turn()
            return 0
        finally:
            self._stop()

    def _raise_walls(self) -> None:
        """Everything that must stand before the first role starts."""
        found = apptree.tree_sha256(Path(self.config.app.path))
        if found != self.config.app.tree_sha256:
            raise ConfigError(
                f"the app in {self.config.app.path} is not the approved one",
                f"its hash is {found}; look at what changed, then run `homebound app-hash` and approve it",
            )
        instance.make_folders(self.place, self.users)
        self.walls = walls.build(self.config, self.place)
        self.log_fd = os.open(
            self.place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        listener = instance.listen_status(self.place)
        self.selector.register(listener, selectors.EVENT_READ, ("status", listener))

    def _try_walls(self) -> None:
        """Run the canary. Raises HomeboundError when a wall that the config requires does not hold."""
        trials = launch.try_walls(self.place, roles.canary(self.users[Role.CANARY]))
        self.life.trials = status.Trials(self.wall_clock(), self.clock(), trials)
        fallen = self.life.trials.fallen(self.config)
        self._report({"type": "canary", "time": self.wall_clock(), "out": len(fallen), "tried": len(trials)})
        if fallen:
            names = ", ".join(f"{trial.name} ({trial.wall})" for trial in fallen)
            raise HomeboundError(
                f"the canary got out: {names}", "nothing will train; see `homebound doctor` for this kernel"
            )
        self.due["canary"] = self.clock() + self.config.canary.interval_seconds

    # --- roles ---------------------------------------------------------------------------------

    def _start_watcher(self) -> None:
        assert self.walls is not None
        fds = self.walls.watched()
        try:
            member = self.roster.start_watcher(fds, lambda at: walls.watcher_document(self.config, at))
        finally:
            for fd in fds.values():
                os.close(fd)
        self.life.last_beat = self.clock()
        self._joined(member)
        self._report({"type": "accounts_baseline", "kernel_stream_bytes": self.accounts.baseline})
        self.due["beat"] = self.clock() + 1.0
        self.due["usage"] = self.clock()

    def _start_data_path(self) -> None:
        assert self.walls is not None
        address = self.walls.allow_federation()
        if not address:
            self._later("data_path", Role.GATEWAY)
            self._absorb(
                {
                    "type": "disconnected",
                    "reason": "name_not_resolved",
                    "hint": "check federation.address and this host's DNS",
                }
            )
            return
        for member in self.roster.start_data_path(address):
            self._joined(member)

    def _start_trainer(self) -> None:
        """Start it if everything that must watch it is there. Otherwise whoever comes back will."""
        if self.life.barred or Role.TRAINER in self.roster.members:
            return
        if Role.GUARD not in self.roster.members or Role.WATCHER not in self.roster.members:
            return
        if apptree.tree_sha256(Path(self.config.app.path)) != self.config.app.tree_sha256:
            self._bar("the app folder changed since it was approved")
            return
        member = self.roster.start_trainer()
        self.selector.register(member.log, selectors.EVENT_READ, ("log", Role.TRAINER))
        self._joined(member)

    def _joined(self, member: Member) -> None:
        role = member.spec.role
        self.selector.register(member.child.pidfd, selectors.EVENT_READ, ("ended", role))
        if member.control is not None:
            self.selector.register(member.control, selectors.EVENT_READ, ("control", role))
        self._absorb({"type": "role_up", "role": role.label})

    def _end(self, role: Role) -> None:
        """Kill a role and unhook its descriptors."""
        member = self.roster.members.get(role)
        if member is None:
            return
        if member.log >= 0:
            self._drain_log(member.log)
        for source in (member.child.pidfd, member.control, member.log if member.log >= 0 else None):
            if source is not None and source in self.selector.get_map():
                self.selector.unregister(source)
        steady = self.clock() - member.started > STEADY_SECONDS
        self.life.restarts[role] = 0 if steady else self.life.restarts.get(role, 0)
        self.roster.end(role)
        self._absorb({"type": "role_down", "role": role.label})

    def _end_trainer(self, code: str) -> None:
        """Freeze at once, kill, and let the guard refuse what it was working on."""
        if Role.TRAINER in self.roster.members:
            self._end(Role.TRAINER)
            self.roster.tell(Role.GUARD, {"type": "trainer_gone", "code": code})

    def _bar(self, why: str) -> None:
        """No more training until the daemon is started again."""
        self.life.barred = why
        self.life.state = "failed"
        self.life.problem = why
        journal.training_stopped(why)
        self._end_trainer("trainer_died")

    def _later(self, what: str, role: Role) -> None:
        """Try again after a pause that doubles with each failure in a row."""
        count = self.life.restarts[role] = self.life.restarts.get(role, 0) + 1
        self.due[what] = self.clock() + min(RESTART_MOST, RESTART_FIRST * 2 ** (count - 1))

    # --- the loop ------------------------------------------------------------------------------

    def _turn(self) -> None:
        wait = max(0.0, min(self.due.values(), default=1.0) - self.clock())
        for key, _ in self.selector.select(min(wait, 1.0)):
            what, who = key.data
            if key.fileobj in self.selector.get_map():  # a step before may have ended this role
                self._happened(what, who)
        for name in [name for name, time_due in self.due.items() if time_due <= self.clock()]:
            self.due.pop(name)
            self._timer(name)

    def _happened(self, what: str, who: Any) -> None:
        if what == "control":
            self._listen(who)
        elif what == "ended":
            self._ended(who)
        elif what == "log":
            self._drain_log(self.roster.members[who].log)
        elif what == "status":
            self._answer_status(who)
        elif what == "signal":
            os.read(who, 512)

    def _timer(self, name: str) -> None:
        steps: dict[str, Callable[[], None]] = {
            "beat": self._check_beat,
            "usage": self._send_usage,
            "canary": self._canary_again,
            "watcher": lambda: self._retry("watcher", Role.WATCHER, self._start_watcher),
            "data_path": lambda: self._retry("data_path", Role.GATEWAY, self._start_data_path),
            "trainer": lambda: self._retry("trainer", Role.TRAINER, self._start_trainer),
        }
        steps[name]()

    def _retry(self, name: str, role: Role, start: Callable[[], None]) -> None:
        try:
            start()
        except HomeboundError as error:
            self.life.problem = str(error)
            journal.role_failed(role.label, str(error))
            self._later(name, role)
            return
        self.life.problem = self.life.barred
        if name != "trainer" and (self.config.trainer.warm or self.life.trainer_wanted):
            self.due["trainer"] = self.clock()

    def _listen(self, role: Role) -> None:
        member = self.roster.members[role]
        assert member.control is not None
        while role in self.roster.members:
            try:
                message, fds = control.receive(member.control)
            except BlockingIOError:
                return
            except control.ControlClosed:
                self.selector.unregister(member.control)  # its end is seen by the pidfd
                return
            for fd in fds:
                os.close(fd)  # no role has anything to hand us
            self._heard(role, message)

    def _heard(self, role: Role, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if role is Role.WATCHER:
            self._heard_watcher(kind, message)
        elif role is Role.GUARD and kind == "trainer_wanted":
            self.life.trainer_wanted = True
            self.due["trainer"] = self.clock()
        elif role is Role.GUARD and kind == "trainer_failed":
            self._end_trainer(str(message.get("code", "trainer_died")))
            self._restart_trainer()
        elif kind in status.REPORTS[role]:
            self._absorb(message)

    def _heard_watcher(self, kind: Any, message: dict[str, Any]) -> None:
        if kind == "beat":
            self.life.last_beat = self.clock()
        elif kind == "denied":
            self.life.recent.extend(message.get("events", []))
        elif kind == "verdict":
            self._judge(message)

    def _judge(self, message: dict[str, Any]) -> None:
        """Carry out a verdict of the watcher. In observe mode it is written down and nothing more."""
        journal.verdict(message)
        key = (str(message.get("rule")), str(message.get("role")))
        known = self.life.violations.get(key, status.Violation(*key))
        self.life.violations[key] = known.again(int(message.get("count", 1)), self.wall_clock())
        if message.get("action") in ("freeze", "kill") and self.config.mode == "enforce":
            if Role.TRAINER in self.roster.members:
                self.place.cgroup(Role.TRAINER).freeze()
            self._bar(f"verdict {message['action']}: {message.get('reason', key[0])}")

    def _absorb(self, report: dict[str, Any]) -> None:
        """A report counts here (status) and at the watcher (metrics)."""
        self.accounts = accounts.fold(self.accounts, report, self.clock())
        kind = report.get("type")
        if kind == "started":
            self.life.state = "training"
        elif kind in ("released", "refused") and self.life.state == "training":
            self.life.state = "waiting"
        journal.report(report)
        self._report(report)

    def _report(self, report: dict[str, Any]) -> None:
        self.roster.tell(Role.WATCHER, {"report": report, "type": "report"})

    # --- what can go wrong ---------------------------------------------------------------------

    def _ended(self, role: Role) -> None:
        """A role's process ended by itself."""
        if role is Role.TRAINER:
            self._end_trainer("trainer_died")
            self._restart_trainer()
            return
        journal.role_failed(role.label, "ended")
        if role is Role.WATCHER:
            self._end_trainer("trainer_died")
            self._end(role)
            self._later("watcher", role)
            return
        # Guard and gateway share a link that cannot be mended from outside: both start anew.
        self._end_trainer("trainer_died")
        self._end(Role.GUARD)
        self._end(Role.GATEWAY)
        self._later("data_path", Role.GATEWAY)

    def _restart_trainer(self) -> None:
        if self.config.trainer.warm or self.life.trainer_wanted:
            self._later("trainer", Role.TRAINER)

    def _check_beat(self) -> None:
        self.due["beat"] = self.clock() + 1.0
        silent = self.clock() - self.life.last_beat
        if Role.WATCHER not in self.roster.members or silent < SILENCE_SECONDS:
            return
        if Role.TRAINER in self.roster.members:
            self.place.cgroup(Role.TRAINER).freeze()
        journal.role_failed("watcher", "silent")
        self._end_trainer("trainer_died")
        self._end(Role.WATCHER)
        self._later("watcher", Role.WATCHER)

    def _canary_again(self) -> None:
        try:
            self._try_walls()
        except HomeboundError as error:
            if Role.TRAINER in self.roster.members:
                self.place.cgroup(Role.TRAINER).freeze()
            self._bar(str(error))
            self.due["canary"] = self.clock() + self.config.canary.interval_seconds

    def _send_usage(self) -> None:
        self.due["usage"] = self.clock() + USAGE_SECONDS
        self._report({"type": "usage", "roles": status.usage(self.place)})
        self._report({"type": "walls", "walls": {name: wall["active"] for name, wall in status.walls(self).items()}})
        if self.walls is not None:
            self._report({"type": "programs", "programs": [vars(p) for p in self.walls.probes.programs()]})

    def _drain_log(self, reading: int) -> None:
        """Keep the app's own output on this device, up to its budget; the rest is dropped."""
        os.set_blocking(reading, False)
        while True:
            try:
                part = os.read(reading, 65536)
            except BlockingIOError:
                return
            if not part:
                if reading in self.selector.get_map():
                    self.selector.unregister(reading)
                return
            kept = part[: self.log_left]
            self.log_left -= len(kept)
            os.write(self.log_fd, kept)

    def _answer_status(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        with connection:
            connection.settimeout(1.0)
            try:
                connection.sendall(status.encode(status.compose(self)))
            except OSError:
                return  # whoever asked went away

    # --- end -----------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing)
        self.selector.register(reading, selectors.EVENT_READ, ("signal", reading))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stopping = True

    def _stop(self) -> None:
        """Trainer first, then a goodbye from the gateway, then everything."""
        self.life.state = "stopped"
        self._end(Role.TRAINER)
        if self.roster.tell(Role.GATEWAY, {"type": "stop"}):
            self._await_goodbye()
        for role in (Role.GATEWAY, Role.GUARD, Role.WATCHER):
            self._end(role)
        instance.remove_tree(self.place)
        if self.walls is not None:
            self.walls.remove()
        journal.stopped(self.config.name)

    def _await_goodbye(self) -> None:
        deadline = self.clock() + GOODBYE_SECONDS
        while Role.GATEWAY in self.roster.members and (left := deadline - self.clock()) > 0:
            for key, _ in self.selector.select(left):
                what, who = key.data
                if what == "control":
                    self._listen(who)
                elif (what, who) == ("ended", Role.GATEWAY):
                    self._end(Role.GATEWAY)
                elif what == "ended":
                    self.selector.unregister(key.fileobj)


def main() -> int:
    """``python -m homebound.supervisor --settings-fd N``: started by ``homebound run``, as root."""
    parser = argparse.ArgumentParser(prog="homebound-supervisor")
    parser.add_argument("--settings-fd", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(arguments.settings_fd, "rb") as file:
        config = settings.from_json(file.read())
    try:
        place = instance.locate(config)
        holder = instance.lock(place)
        try:
            return Supervisor(config, place).run()
        finally:
            instance.remove_run(place)
            os.close(holder)
    except HomeboundError as error:
        print(f"homebound: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
