# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: walls first, then the roles, then watch over them; stop all when told or when in doubt.

Root, small, without data and without network. It decides when a role starts and ends, never what leaves.
No watching, no training: when the watcher is silent, a wall falls or the canary gets out, the trainer is
frozen and killed, and the daemon stays up to say so. May import: everything but the roles' own rooms.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homebound import apptree, control, journal, settings
from homebound.books import accounts, ledger
from homebound.errors import ConfigError, HomeboundError
from homebound.events import Role
from homebound.rooms import instance, launch, roles, walls
from homebound.rooms.patience import ToldToStop
from homebound.supervisor import goodbye, notify, reconciling, reload, silence, status
from homebound.supervisor.life import Life, Trials
from homebound.supervisor.loop import Loop
from homebound.supervisor.roster import Member, Roster
from homebound.supervisor.sockets import GatewaySockets, of_cgroup
from homebound.supervisor.trainerlog import TrainerLog
from homebound.supervisor.uplinks import Uplinks

USAGE_SECONDS = 5.0


class Supervisor:
    """One device. ``clock`` is monotonic seconds, ``wall_clock`` seconds since the epoch."""

    def __init__(
        self,
        config: settings.Settings,
        place: instance.Instance,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        config_file: str = "",
    ) -> None:
        self.notify = notify.connect()
        self.config = config
        self.config_file = config_file
        self.place = place
        self.clock = clock
        self.wall_clock = wall_clock
        self.users = roles.identities(config)
        self.roster = Roster(config, place, self.users, clock, self.is_told)
        self.life = Life(since=wall_clock())
        self.accounts = accounts.Accounts()
        self.loop = Loop(clock)
        self.walls: walls.Walls | None = None
        self.uplinks: Uplinks | None = None
        self.sockets: GatewaySockets | None = None
        self.log: TrainerLog | None = None
        self.stopping = False

    # --- start ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Leaves no process, mount, cgroup or pin behind, whatever happens."""
        self.loop.on_signals(reload.signals(self))
        try:
            self.notify.status("Building the walls")
            self._raise_walls()
            self.notify.status("Trying the walls")
            self._try_walls()
            self.notify.status("Starting the roles")
            self._start_watcher()
            self._start_data_path()
            while not (self.life.watched or self.stopping):
                self.loop.turn()
            if self.config.trainer.warm:
                self._start_trainer()
            if self.life.state == "starting":  # a task may be in work already
                self.life.state = "waiting"
            journal.started(self.config.name, self.config.mode)
            self.notify.ready(status.line(self))
            self.loop.after("reconcile", reconciling.EVERY_SECONDS, lambda: reconciling.every_minute(self))
            while not self.stopping:
                self.loop.turn()
        except ToldToStop:
            self.stopping = True
        finally:
            clean = goodbye.end_all(self)
        return 0 if clean else HomeboundError.exit_status

    def is_told(self) -> bool:
        """Whether to stop, also before the loop comes round to hear it."""
        return self.stopping or self.loop.is_told({signal.SIGTERM, signal.SIGINT})

    def _raise_walls(self) -> None:
        """Everything that must stand before the first role starts."""
        apptree.require(Path(self.config.app.path), self.config.app.tree_sha256)
        instance.make_folders(self.place, self.users)
        for report in status.released_before(self.place.guard_state / ledger.FILE, self.roster.kept):
            self._absorb(report)
        self.walls = walls.build(self.config, self.place)
        self.uplinks = Uplinks(self.loop, self.walls.probes, self.config.name)
        self.uplinks.start()
        self.sockets = of_cgroup(self.place.cgroup(Role.GATEWAY).id())
        self.log = TrainerLog(self.place.log, self.config.trainer.log_bytes)
        listener = instance.listen_status(self.place)
        self.loop.watch(listener, lambda: status.answer(listener, self))

    def _try_walls(self) -> None:
        """Run the canary. Raises HomeboundError when a wall that the config requires does not hold."""
        trials = launch.try_walls(
            self.place,
            roles.canary(self.users[Role.CANARY], self.config.trainer.root, self.config.trainer.python),
            self.is_told,
            self.walls.hooks() if self.walls else (),
        )
        self.life.trials = Trials(self.wall_clock(), self.clock(), trials)
        fallen = self.life.trials.fallen(self.config)
        self._report({"type": "canary", "time": self.wall_clock(), "out": len(fallen), "tried": len(trials)})
        if fallen:
            names = ", ".join(f"{trial.name} ({trial.wall})" for trial in fallen)
            raise HomeboundError(
                f"the canary got out: {names}", "nothing will train; see `homebound doctor` for this kernel"
            )
        self.loop.after("canary", self.config.canary.interval_seconds, self._canary_again)

    # --- roles ---------------------------------------------------------------------------------

    def _start_watcher(self) -> None:
        assert self.walls is not None
        standing, fds = self.walls, self.walls.watched()
        try:
            member = self.roster.start_watcher(fds, lambda at: walls.watcher_document(standing, at))
        finally:
            for fd in fds.values():
                os.close(fd)
        self.life.watched = False
        self.life.silence.broken(self.clock())
        self._joined(member)
        self._report(accounts.to_report(self.accounts))  # a new watcher goes on with the old books
        self.loop.after("beat", silence.LOOK_SECONDS, self._check_beat)
        self.loop.after("usage", 0.0, self._send_usage)

    def _start_data_path(self) -> None:
        assert self.walls is not None
        address = self.walls.allow_federation(self.is_told)
        if not address:
            self._later(Role.GATEWAY)
            hint = "check federation.address and this host's DNS"
            self._absorb({"type": "disconnected", "reason": "name_not_resolved", "hint": hint})
            return
        for member in self.roster.start_data_path(address, self.walls.credit_fd(self.accounts)):
            self._joined(member)

    def _start_trainer(self) -> None:
        """Start it if everything that must watch it is there and awake. Otherwise whoever comes back will."""
        if self.life.barred or Role.TRAINER in self.roster.members or not self.life.watched:
            return
        if Role.GUARD not in self.roster.members or Role.WATCHER not in self.roster.members:
            return
        try:
            apptree.require(Path(self.config.app.path), self.config.app.tree_sha256)
        except ConfigError as error:
            self._bar(str(error))
            return
        assert self.walls is not None
        self.walls.forget_files()
        member = self.roster.start_trainer()
        self.walls.tell_files(member.facts.pid)
        self.life.trainer_wanted = False
        self.loop.watch(member.log, lambda: self._drain_log(member.log))
        self._joined(member)

    def _joined(self, member: Member) -> None:
        role = member.spec.role
        self.loop.watch(member.child.pidfd, lambda: self._ended(role))
        if member.control is not None:
            self.loop.watch(member.control, lambda: self.listen(role))
        self._absorb({"type": "role_up", "role": role.label})

    def end(self, role: Role) -> None:
        """Kill a role and unhook its descriptors."""
        member = self.roster.members.get(role)
        if member is None:
            return
        if member.log >= 0:
            self._drain_log(member.log)
            self.loop.forget(member.log)
        if member.control is not None:
            self.loop.forget(member.control)
        self.loop.forget(member.child.pidfd)
        self.life.ended(role, self.clock() - member.started)
        for message in self.roster.end(role):  # the gateway declares before it sends: what was sent counts
            if message.get("type") in status.REPORTS.get(role, ()):
                self._absorb(message)
        self._absorb({"type": "role_down", "role": role.label})

    def _end_trainer(self, code: str) -> None:
        """Freeze at once, kill, and let the guard refuse what it was working on."""
        if Role.TRAINER in self.roster.members:
            self.end(Role.TRAINER)
            self.roster.tell(Role.GUARD, {"type": "trainer_gone", "code": code})

    def _bar(self, why: str) -> None:
        """No more training until the daemon is started again."""
        self.life.barred = why
        self.life.state = "failed"
        journal.training_stopped(why)
        self._end_trainer("trainer_died")

    def _later(self, role: Role) -> None:
        """Start a role again after a pause that doubles with each failure in a row."""
        self.loop.after(f"start {role.label}", self.life.pause(role), lambda: self._again(role))

    def _again(self, role: Role) -> None:
        starts = {
            Role.WATCHER: self._start_watcher,
            Role.GATEWAY: self._start_data_path,
            Role.TRAINER: self._start_trainer,
        }
        if self.life.state == "stopped":
            return
        try:
            starts[role]()
        except (HomeboundError, OSError) as error:
            self.life.troubles[role.label] = str(error)
            journal.role_failed(role.label, str(error))
            self._later(role)
            return
        if role is Role.TRAINER:
            self.life.troubles.pop(role.label, None)  # the others are well when they say so
        else:
            self._trainer_if_due()

    def _trainer_if_due(self, pause: float = 0.0) -> None:
        if self.config.trainer.warm or self.life.trainer_wanted:
            self.loop.after("start trainer", pause, lambda: self._again(Role.TRAINER))

    # --- what the roles say --------------------------------------------------------------------

    def listen(self, role: Role) -> None:
        """Take all that a role, if it is there, has said by now."""
        member = self.roster.members.get(role)
        while member is not None and member.control is not None and role in self.roster.members:
            try:
                message, fds = control.receive(member.control)
            except BlockingIOError:
                return
            except control.ControlClosed:
                self.loop.forget(member.control)  # its end is seen by the pidfd
                return
            for fd in fds:
                os.close(fd)  # no role has anything to hand us
            self._heard(role, message)

    def _heard(self, role: Role, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "ready":
            self.life.troubles.pop(role.label, None)
        elif role is Role.WATCHER:
            self._heard_watcher(kind, message)
        elif role is Role.GATEWAY and kind == "let_go" and self.walls:
            self.walls.turn_to_other()
            self.roster.tell(Role.GATEWAY, {"type": "go"})
        elif role is Role.GUARD and kind == "trainer_wanted" and self.life.barred:
            self.roster.tell(Role.GUARD, {"type": "trainer_gone"})  # there will be none: refuse at once
        elif role is Role.GUARD and kind == "trainer_wanted":
            self.life.trainer_wanted = True
            self._trainer_if_due()
        elif role is Role.GUARD and kind == "trainer_failed":
            trainer = self.roster.members.get(Role.TRAINER)
            if trainer is not None and trainer.number == message.get("number"):  # else it ended long since
                self._lose_trainer(str(message.get("code", "trainer_died")))
        elif kind in status.REPORTS[role]:
            self._absorb(message)

    def _heard_watcher(self, kind: Any, message: dict[str, Any]) -> None:
        if kind == "beat":
            self.life.silence.broken(self.clock())
            if not self.life.watched:
                self.life.watched = True
                self.life.troubles.pop("watcher", None)
                if self.life.state != "starting":
                    self._trainer_if_due()
        elif kind == "question":
            for role in (Role.GUARD, Role.GATEWAY):  # what they said before goes before the answer
                self.listen(role)
            self.roster.tell(Role.WATCHER, {"type": "answer", "number": message.get("number")})
        elif kind == "denied":
            self.life.recent.extend(message.get("events", []))
        elif kind == "verdict":
            self._judge(message)

    def _judge(self, message: dict[str, Any]) -> None:
        """Carry out a verdict of the watcher. In observe mode it is written down and nothing more."""
        if self.life.repeats.is_first(message, self.clock()):
            journal.verdict(message)
        self.life.note(message, self.wall_clock())
        if message.get("action") in ("freeze", "kill") and self.config.mode == "enforce":
            if Role.TRAINER in self.roster.members:
                self.place.cgroup(Role.TRAINER).freeze()
            self._bar(f"verdict {message['action']}: {message.get('reason', message.get('rule'))}")

    def _absorb(self, report: dict[str, Any]) -> None:
        """A report counts here (status) and at the watcher (metrics)."""
        before, self.accounts = self.accounts, accounts.fold(self.accounts, report, self.clock())
        self.roster.kept.take(report)
        walls.settle(self.walls, report, before, self.accounts)
        if self.life.hear(report):
            journal.report(report)
        if report.get("type") == "disconnected" and report.get("reason") == "unreachable":
            self._dial_another()
        self._report(report)

    def _dial_another(self) -> None:
        """A name may have several addresses. The gateway lets go of the old one before it is closed to it."""
        if self.walls and (address := self.walls.other_address()):
            self.roster.tell(Role.GATEWAY, {"type": "dial", "address": address})

    def _report(self, report: dict[str, Any]) -> None:
        self.roster.tell(Role.WATCHER, {"report": report, "type": "report"})

    # --- what can go wrong ---------------------------------------------------------------------

    def _ended(self, role: Role) -> None:
        """A role's process ended by itself."""
        self.listen(role)  # its last words count
        if self.life.state == "stopped":
            self.end(role)
            return
        if role is Role.TRAINER:
            self._lose_trainer("trainer_died")
            return
        journal.role_failed(role.label, "ended")
        self.life.troubles[role.label] = f"the {role.label} ended; the journal says why"
        if role is Role.WATCHER:
            self._end_trainer("trainer_died")
            self.end(role)
            self._later(role)
            return
        # Guard and gateway share a link that cannot be mended from outside: both start anew.
        self._end_trainer("trainer_died")
        self.end(Role.GUARD)
        self.end(Role.GATEWAY)
        for task in self.accounts.tasks:
            if task.state == "started":  # the guard took its refusal along
                lost = {"type": "refused", "task": task.task, "round": task.round}
                self._absorb({**lost, "code": "trainer_died"})
        self._later(Role.GATEWAY)

    def _lose_trainer(self, code: str) -> None:
        """It ended, or is of no use. In a round the guard's refusal says so, else we do."""
        self._end_trainer(code)
        if code == "app_not_loaded" and "app" not in self.life.troubles:
            self.life.troubles["app"] = f"the app does not load: {self.place.log} says why"
            journal.role_failed("trainer", self.life.troubles["app"])
        elif code != "app_not_loaded" and self.config.trainer.warm and self.life.state != "training":
            journal.role_failed("trainer", "ended")
        self._trainer_if_due(self.life.pause(Role.TRAINER))

    def _check_beat(self) -> None:
        self.loop.after("beat", silence.LOOK_SECONDS, self._check_beat)
        silent = self.life.silence.look(self.clock())
        patience = silence.LIMIT_SECONDS if self.life.watched else launch.START_SECONDS
        if silent < silence.LIMIT_SECONDS:
            self.notify.alive(status.line(self))
        if Role.WATCHER not in self.roster.members or silent < patience:
            return
        if Role.TRAINER in self.roster.members:
            self.place.cgroup(Role.TRAINER).freeze()
        journal.role_failed("watcher", "silent")
        self._end_trainer("trainer_died")
        self.end(Role.WATCHER)
        self._later(Role.WATCHER)

    def _canary_again(self) -> None:
        try:
            self._try_walls()
        except HomeboundError as error:
            if Role.TRAINER in self.roster.members:
                self.place.cgroup(Role.TRAINER).freeze()
            self._bar(str(error))
            self.loop.after("canary", self.config.canary.interval_seconds, self._canary_again)

    def _send_usage(self) -> None:
        self.loop.after("usage", USAGE_SECONDS, self._send_usage)
        for report in status.periodic(self):
            self._report(report)
        self.sum_up()

    def sum_up(self, *, all_of_them: bool = False) -> None:
        """Write what repeated since its last line, if that is a minute old."""
        for summary in self.life.repeats.due(self.clock(), all_of_them=all_of_them):
            journal.repeated(summary.verdict, summary.more, summary.seconds)

    def _drain_log(self, reading: int) -> None:
        if self.log is None or not self.log.drain(reading):
            self.loop.forget(reading)
