# SPDX-License-Identifier: Apache-2.0
"""A device of its own for the leak test: a cgroup tree, the kernel programs, and the canary's sandbox in it.

The sandbox is started by the daemon's own launch path with the trainer's walls, so what holds here holds
there. All is removed in the end. Runs as root, outside. Imports instance, launch, roles, kernel.
"""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from homebound import launch, roles, users, walls
from homebound.errors import HomeboundError, PermissionMissing
from homebound.events import Kind, Role, Rule
from homebound.instance import BPF_FILE_SYSTEM, Instance
from homebound.kernel import cgroups, maps, probes
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.sandbox import Identity
from homebound.kernel.spawn import Child
from homebound.launch import Links
from homebound.leaktest.judge import Denial
from homebound.leaktest.run import Report, leaktest, select_channels

MODULE = "homebound.leaktest.attempts"
# A dozen attempts take a second, most of it pauses; a machine under load ten times that.
ATTEMPTS_SECONDS = 60.0
OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True)
class KernelWatch:
    """Reads what the kernel programs counted and reported of the canary."""

    counters: int
    events: maps.EventStream

    def denied(self) -> Mapping[Rule, int]:
        """Read the denied counters of the canary."""
        table = maps.read_denied(self.counters)
        return {rule: count for (role, rule), count in table.items() if role is Role.CANARY}

    def denials(self) -> Sequence[Denial]:
        """Take the denials of the canary that came since the last call."""
        return [
            Denial(event.time_ns, event.rule)
            for event in self.events.poll(0)
            if event.kind is Kind.DENIED and event.role is Role.CANARY
        ]


@dataclass(frozen=True)
class Device:
    """The canary's place on this host and what the kernel says of it."""

    instance: Instance
    user: Identity
    watch: KernelWatch

    def launch(self, arguments: Sequence[str]) -> str:
        """Run the attempts in the canary's sandbox and return what they wrote. A Launcher."""
        spec = dataclasses.replace(roles.canary(self.user), module=MODULE)
        return self.collect(lambda out: launch.start(self.instance, spec, Links(arguments, {1: out})))

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
def device(users_base: int, *, enforce: bool = True) -> Iterator[Device]:
    """Make a device for the length of a block. ``users_base`` is the setting users.base.

    With ``enforce`` False the kernel programs count and let pass. Raises what cgroups and probes raise.
    """
    instance = _instance(f"leaktest-{os.getpid()}")
    user = Identity(*users.identity("canary", Role.CANARY.value, users_base))
    with ExitStack() as stack:
        stack.enter_context(_bpf_file_system())
        stack.enter_context(_tree(instance))
        loaded = stack.enter_context(_probes(instance, enforce=enforce))
        events = stack.enter_context(maps.EventStream(loaded.map_fd("events")))
        yield Device(instance, user, KernelWatch(loaded.map_fd("denied"), events))


@contextmanager
def _bpf_file_system() -> Iterator[None]:
    """Mount it where systemd would, if nobody has, and take it away again."""
    mounted = os.path.ismount(BPF_FILE_SYSTEM)
    if not mounted:
        words = ["mount", "-t", "bpf", "bpf", str(BPF_FILE_SYSTEM)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PermissionMissing(
                f"{BPF_FILE_SYSTEM} cannot be mounted: {done.stderr.strip()}", "run as root"
            )
    try:
        yield
    finally:
        if not mounted and not any(BPF_FILE_SYSTEM.iterdir()):
            subprocess.run(["umount", str(BPF_FILE_SYSTEM)], check=False)


@contextmanager
def _probes(instance: Instance, *, enforce: bool) -> Iterator[probes.Probes]:
    """Attach the programs before anything runs in the tree, and detach them after the last of it ended."""
    canary = instance.cgroup(Role.CANARY)
    loaded = probes.Probes.load(
        objects=walls.OBJECTS,
        cgroup=instance.root.path,
        role_level=canary.level(),
        enforce=enforce,
        pins=instance.pins,
    )
    try:
        missing = [program for program in loaded.programs() if not program.attached]
        if missing:
            words = "; ".join(f"{program.name}: {program.reason}" for program in missing)
            raise HomeboundError(f"kernel programs did not attach: {words}", "see `homebound doctor`")
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
        pins=BPF_FILE_SYSTEM / "homebound" / name,
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


def try_host(numbers: Sequence[int], users_base: int) -> Report:
    """``homebound leaktest``: try the channels of these numbers (all when none is given) on this host.

    Raises UsageError for an unknown number, PermissionMissing without root, and what ``device`` raises.
    """
    channels = select_channels(numbers)
    if os.geteuid() != 0:
        raise PermissionMissing("the leak test makes sandboxes and kernel programs", "run it as root")
    with device(users_base) as made:
        return leaktest(channels, made.launch, made.watch)
