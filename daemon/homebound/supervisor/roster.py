# SPDX-License-Identifier: Apache-2.0
"""The roles that run: starts each with its links, looks at its walls, ends it. No policy: when and why is
the supervisor's.

The links are made here and nowhere else, so this file shows who can speak to whom:
supervisor = watcher, guard, gateway (control); gateway = guard (frames); guard = trainer (frames).
May import: books.anchor, channel, control, supervisor.credentials, errors, events, rooms.instance,
rooms.launch, rooms.roles, settings, kernel.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebound import channel, control
from homebound.books import anchor
from homebound.events import Role
from homebound.kernel import audit
from homebound.kernel.sandbox import Identity
from homebound.kernel.spawn import Child
from homebound.rooms import launch, roles
from homebound.rooms.instance import Instance
from homebound.rooms.launch import Links, memory_file
from homebound.rooms.patience import Told, never
from homebound.rooms.roles import CREDENTIALS, STATE, Spec
from homebound.settings import Settings
from homebound.supervisor import credentials

CONTROL_FD, SETTINGS_FD, LINK_FD, KEY_FD, CREDIT_FD = 3, 4, 5, 6, 7
# The watcher's many descriptors begin here, above the seccomp filter's number.
WATCHED_FD = 16


@dataclass
class Member:
    """One running role. ``log`` is the reading end of the trainer's output."""

    spec: Spec
    child: Child
    facts: audit.Facts
    started: float
    control: socket.socket | None = None
    log: int = -1
    # Counts the trainers; 0 for the other roles.
    number: int = 0


class Roster:
    """Who runs now. Each method that starts a role raises what launch.start and launch.inspect raise.

    ``told``: whether the daemon was told to stop, which ends the waiting for a start.
    """

    def __init__(
        self,
        settings: Settings,
        instance: Instance,
        users: Mapping[Role, Identity],
        clock: Callable[[], float] = time.monotonic,
        told: Told = never,
    ) -> None:
        self._told = told
        self._trainers = 0
        self._settings = settings
        self._instance = instance
        self._users = users
        self._clock = clock
        self.members: dict[Role, Member] = {}
        self.kept = anchor.Kept(instance.state / anchor.FILE)

    def start_watcher(
        self, fds: Mapping[str, int], describe: Callable[[Mapping[str, int]], dict[str, Any]]
    ) -> Member:
        """``fds`` are our descriptors by name; ``describe`` makes its settings from the numbers they get."""
        numbers = {name: WATCHED_FD + i for i, name in enumerate(fds)}
        spec = roles.watcher(self._users[Role.WATCHER])
        placed = {numbers[name]: fd for name, fd in fds.items()}
        return self._start_controlled(spec, describe(numbers), [], placed)

    def start_data_path(self, dial: str, credit: int) -> tuple[Member, Member]:
        """Guard and gateway with the link between them; ``dial`` is the address that may be reached,
        ``credit`` our descriptor of the map by which the guard lets the gateway send."""
        guard_end, gateway_end = channel.pair()
        words, fds = ["--gateway", str(LINK_FD), "--state", STATE], {LINK_FD: guard_end.fileno()}
        if key := credentials.find("ledger_key"):
            fds[KEY_FD] = os.open(key, os.O_RDONLY | os.O_CLOEXEC)
            words += ["--key-fd", str(KEY_FD)]
        fds[CREDIT_FD] = credit
        words += ["--credit-fd", str(CREDIT_FD)]
        try:
            guard = self._start_controlled(
                roles.guard(self._users[Role.GUARD], self._instance.guard_state),
                self._guard_settings(),
                words,
                fds,
            )
            gateway = self._start_controlled(
                self._gateway_spec(),
                self._gateway_settings(dial),
                ["--guard", str(LINK_FD), "--state", STATE],
                {LINK_FD: gateway_end.fileno()},
            )
        finally:
            guard_end.close()
            gateway_end.close()
            if KEY_FD in fds:
                os.close(fds[KEY_FD])
        return guard, gateway

    def start_trainer(self) -> Member:
        """The trainer, whose link is handed to the guard only after its walls were seen to stand."""
        spec = roles.trainer(self._settings, self._users[Role.TRAINER])
        guard_end, trainer_end = channel.pair()
        reading, writing = os.pipe()
        settings_fd = memory_file(self._trainer_settings())
        arguments = ["--guard", str(LINK_FD), "--settings-fd", str(SETTINGS_FD)]
        fds = {1: writing, 2: writing, SETTINGS_FD: settings_fd, LINK_FD: trainer_end.fileno()}
        try:
            child = launch.start(self._instance, spec, Links(arguments, fds))
            facts = self._thaw_and_inspect(spec, child, frozenset({LINK_FD}))
            self._trainers += 1
            member = Member(spec, child, facts, self._clock(), log=reading, number=self._trainers)
            self.members[Role.TRAINER] = member
            self.tell(Role.GUARD, {"type": "trainer", "number": member.number}, [guard_end.fileno()])
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            os.close(settings_fd)
            guard_end.close()
            trainer_end.close()
        return member

    def tell(self, role: Role, message: control.Message, fds: list[int] | None = None) -> bool:
        """Send a control message; False when the role is not there to hear it or does not read."""
        member = self.members.get(role)
        if member is None or member.control is None:
            return False
        try:
            control.send(member.control, message, fds or ())
        except (control.ControlClosed, BlockingIOError):
            return False
        return True

    def end(self, role: Role) -> list[control.Message]:
        """Kill a role with everything it started, and forget it; what it had said and nobody heard."""
        cgroup = self._instance.cgroup(role)
        cgroup.kill()
        member = self.members.pop(role, None)
        if member is None:
            return []
        os.waitpid(member.child.pid, 0)
        os.close(member.child.pidfd)
        said: list[control.Message] = []
        if member.control is not None:
            said = control.last_words(member.control)
            member.control.close()
        if member.log >= 0:
            os.close(member.log)
        return said

    def _start_controlled(
        self, spec: Spec, settings: dict[str, Any], arguments: list[str], fds: Mapping[int, int]
    ) -> Member:
        ours, theirs = control.pair()
        settings_fd = memory_file(settings)
        own = ["--control", str(CONTROL_FD), "--settings-fd", str(SETTINGS_FD)]
        placed = {CONTROL_FD: theirs.fileno(), SETTINGS_FD: settings_fd, **fds}
        try:
            child = launch.start(self._instance, spec, Links(own + arguments, placed))
            facts = self._thaw_and_inspect(spec, child, frozenset(placed))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(settings_fd)
        ours.setblocking(False)
        member = Member(spec, child, facts, self._clock(), control=ours)
        self.members[spec.role] = member
        return member

    def _thaw_and_inspect(self, spec: Spec, child: Child, links: frozenset[int]) -> audit.Facts:
        """Let it run as far as its own first lines and judge it; one that fails is ended here."""
        cgroup = self._instance.cgroup(spec.role)
        try:
            cgroup.thaw()
            return launch.inspect(self._instance, spec, child, links, self._clock, self._told)
        except BaseException:
            cgroup.kill()
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)
            raise

    def _gateway_spec(self) -> Spec:
        return roles.gateway(
            self._settings,
            self._users[Role.GATEWAY],
            self._instance.gateway_state,
            self._instance.credentials,
        )

    def _guard_settings(self) -> dict[str, Any]:
        trainer = self._settings.trainer
        return {
            **dataclasses.asdict(self._settings.guard),
            "round_timeout_seconds": trainer.round_timeout_seconds,
            "warm": trainer.warm,
            "anchor": dataclasses.asdict(self.kept.anchor.head),
        }

    def _gateway_settings(self, dial: str) -> dict[str, Any]:
        """The federation section, with the key and certificates where the gateway sees a copy of them."""
        federation = dataclasses.asdict(self._settings.federation)
        user = self._users[Role.GATEWAY]
        for key in ("root_certificates", "node_key"):
            if source := federation[key] or credentials.find(key):
                copy = self._instance.credentials / key
                shutil.copyfile(source, copy)
                os.chown(copy, user.uid, user.gid)
                copy.chmod(0o400)
                federation[key] = str(Path(CREDENTIALS) / key)
        return {
            "federation": federation,
            "dial": dial,
            "port": self._settings.federation.port,
            "app": {"fab_sha256": self._settings.app.fab_sha256},
            "max_update_bytes": self._settings.guard.max_update_bytes,
        }

    def _trainer_settings(self) -> dict[str, Any]:
        return {
            "preload": list(self._settings.trainer.preload),
            "node_config": {"data-path": roles.DATA, **self._settings.app.node_config},
            "max_body_bytes": self._settings.guard.max_update_bytes,
        }
