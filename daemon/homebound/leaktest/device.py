# SPDX-License-Identifier: Apache-2.0
"""A device of its own for the leak test: a cgroup tree, the kernel programs, and the canary's sandbox in it.

The sandbox is started by the daemon's own launch path with the trainer's walls, so what holds here holds
there. All is removed in the end. Runs as root, outside. Imports instance, launch, roles, kernel.
"""

from __future__ import annotations

import dataclasses
import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import HomeboundError, PermissionMissing
from homebound.events import Kind, Program, Role, Rule
from homebound.kernel import bpffs, cgroups, lsm, maps, probes, seccomp, spawn
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.sandbox import Identity
from homebound.kernel.spawn import Child, Command
from homebound.leaktest.judge import Denial
from homebound.leaktest.run import Report, choose, leaktest
from homebound.leaktest.without import inheritable, leave_out
from homebound.rooms import areas, launch, roles, users, walls
from homebound.rooms.instance import Instance
from homebound.rooms.launch import SECCOMP_FD, Links

MODULE = "homebound.leaktest.attempts"
# A dozen attempts take a second, most of it pauses; a machine under load ten times that.
ATTEMPTS_SECONDS = 60.0
OUTPUT_BYTES = 1 << 20
# Left out where the programs are loaded, not on the command line of the sandbox.
BPF_WALLS = frozenset({"cgroup-bpf", "bpf-lsm"})


@dataclass(frozen=True)
class KernelWatch:
    """Reads what the kernel programs counted and reported of the canary."""

    counters: int
    events: maps.EventStream
    enforces: bool

    def denied(self) -> Mapping[Rule, int]:
        """Read the denied counters of the canary."""
        table = maps.read_denied(self.counters)
        return {rule: count for (role, rule), count in table.items() if role is Role.CANARY}

    def denials(self) -> Sequence[Denial]:
        """Take the denials of the canary that came since the last call."""
        return [
            Denial(event.time_ns, event.rule)
            for event in self.events.poll(0)
            if event.kind is Kind.DENIED and event.role is Role.CANARY and event.rule is not None
        ]


@dataclass(frozen=True)
class Device:
    """The canary's place on this host and what the kernel says of it. ``without``: walls that are left
    out."""

    instance: Instance
    user: Identity
    watch: KernelWatch
    without: frozenset[str] = frozenset()
    root: str = ""

    def launch(self, arguments: Sequence[str]) -> str:
        """Run the attempts in the canary's sandbox and return what they wrote. A Launcher."""
        spec = dataclasses.replace(roles.canary(self.user, self.root), module=MODULE)
        if self.without:
            return self.collect(lambda out: self._start_without(spec, arguments, out))
        return self.collect(lambda out: launch.start(self.instance, spec, Links(arguments, {1: out})))

    def _start_without(self, spec: roles.Spec, arguments: Sequence[str], out: int) -> Child:
        """As launch.start, with walls left out of the command line."""
        words = launch.command_line(spec, Links(arguments, {}))
        kept = inheritable() if "no-inherited-fd" in self.without else {}
        filter_fd = seccomp.compile_filter(spec.profile)
        try:
            command = Command(
                leave_out(words, self.without),
                {**kept, **({} if "seccomp" in self.without else {SECCOMP_FD: filter_fd}), 1: out, 2: 2},
                oom_score_adjust=spec.oom_score_adjust,
            )
            return spawn.spawn(command, self.instance.cgroup(spec.role).path)
        finally:
            os.close(filter_fd)

    def collect(self, start: Callable[[int], Child]) -> str:
        """Start something in the canary's cgroup, read its output to the end, and kill what is left.

        ``start`` gets the descriptor that becomes the child's standard output.
        """
        receiving, sending = os.pipe()
        try:
            child = start(sending)
        finally:
            os.close(sending)
        cgroup = self.instance.cgroup(Role.CANARY)
        try:
            cgroup.thaw()
            return _read_all(receiving)
        finally:
            cgroup.kill()
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)
            os.close(receiving)


@contextmanager
def device(users_base: int, *, without: Collection[str] = (), root: str = "") -> Iterator[Device]:
    """Make a device for the length of a block. ``users_base`` is the setting users.base.

    ``without``: walls to leave out; without cgroup-bpf the programs on the cgroup count and let pass. Raises
    what cgroups and probes raise.
    """
    instance = _instance(f"leaktest-{os.getpid()}")
    user = Identity(*users.identity("canary", Role.CANARY.value, users_base))
    with ExitStack() as stack:
        stack.callback(bpffs.hold().release)
        stack.enter_context(_tree(instance))
        loaded = stack.enter_context(_probes(instance, without))
        events = stack.enter_context(maps.EventStream(loaded.map_fd("events")))
        watch = KernelWatch(loaded.map_fd("denied"), events, "cgroup-bpf" not in without)
        yield Device(instance, user, watch, frozenset(without) - BPF_WALLS, root)


@contextmanager
def _probes(instance: Instance, without: Collection[str]) -> Iterator[probes.Probes]:
    """Attach the programs before anything runs in the tree, and detach them after the last of it ended."""
    canary = instance.cgroup(Role.CANARY)
    loaded = probes.Probes.load(
        objects=walls.OBJECTS,
        cgroup=instance.root.path,
        role_level=canary.level(),
        enforce="cgroup-bpf" not in without,
        pins=instance.pins,
        off=dict.fromkeys(lsm.PROGRAMS, "left out") if "bpf-lsm" in without else {},
        hooks_enforce=True,
    )
    try:
        lacking = probes.missing(loaded.programs())
        if lacking:
            words = "; ".join(f"{program.name}: {program.reason}" for program in lacking)
            raise HomeboundError(f"kernel programs did not attach: {words}", "see `homebound doctor`")
        if Program.LSM_OPEN in areas.attached(loaded):
            areas.tell_host(loaded, Cgroup(cgroups.mount() / cgroups.own().lstrip("/")).id())
        loaded.assign(canary.id(), Role.CANARY)
        yield loaded
        canary.kill()
    finally:
        loaded.remove()
        for folder in (instance.pins, instance.pins.parent):
            with suppress(OSError):
                folder.rmdir()


def _instance(name: str) -> Instance:
    mount = cgroups.mount()
    return Instance(
        run=Path("/run/homebound") / name,
        state=Path("/var/lib/homebound") / name,
        pins=bpffs.FOLDER / "homebound" / name,
        root=Cgroup(mount / "homebound" / name, mount),
        home=cgroups.own(),
    )


@contextmanager
def _tree(instance: Instance) -> Iterator[None]:
    above = Cgroup(instance.root.path.parent, instance.root.root)
    canary = instance.cgroup(Role.CANARY)
    try:
        for cgroup in (above, instance.root, canary):
            cgroup.make()
        yield
    finally:
        if canary.path.exists():
            canary.kill()
        if instance.root.path.exists():
            instance.root.remove()
        with suppress(OSError):  # a daemon's cgroups are in it
            above.path.rmdir()


def _read_all(fd: int) -> str:
    deadline = time.monotonic() + ATTEMPTS_SECONDS
    text = b""
    while (left := deadline - time.monotonic()) > 0 and len(text) < OUTPUT_BYTES:
        if select.select([fd], [], [], left)[0]:
            part = os.read(fd, 65536)
            if not part:
                return text.decode(errors="replace")
            text += part
    raise HomeboundError("the attempts did not end", "the sandbox was killed; report this with your kernel")


def try_host(
    numbers: Sequence[int], users_base: int, without: Collection[str] = (), root: str = ""
) -> Report:
    """``homebound leaktest``: try the channels of these numbers (all when none is given) on this host.

    ``without``: walls to leave out, for measuring the others. ``root``: the setting trainer.root.
    Raises UsageError for an unknown number,
    PermissionMissing without root, and what ``device`` raises.
    """
    channels, elsewhere = choose(numbers)
    if os.geteuid() != 0:
        raise PermissionMissing("the leak test makes sandboxes and kernel programs", "run it as root")
    with device(users_base, without=without, root=root) as made:
        report = leaktest(channels, made.launch, made.watch)
    return dataclasses.replace(report, without=tuple(without), elsewhere=elsewhere)
