# SPDX-License-Identifier: Apache-2.0
"""Start a role in its cgroup behind its walls, and look from outside whether they stand.

The supervisor's hand: it builds the sandbox from the role's Spec, starts it frozen, thaws it, and reads
what the kernel says about the process. The role's own word is not asked. May import: errors, events,
rooms.roles, rooms.instance, rooms.canary, rooms.patience, kernel.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import HomeboundError, ServiceUnavailable
from homebound.events import Role
from homebound.kernel import audit, sandbox, seccomp, spawn
from homebound.kernel.spawn import Child, Command
from homebound.rooms import canary
from homebound.rooms.instance import Instance
from homebound.rooms.patience import LOOK_SECONDS, Told, ToldToStop, never
from homebound.rooms.roles import Spec

SECCOMP_FD = 9
# bubblewrap, setpriv and Python's start take 0.1 s; a machine under load ten times that.
START_SECONDS = 20.0
SETTLE_SECONDS = 1.0
CANARY_SECONDS = 20.0


class WallMissing(HomeboundError):
    """A role runs without one of its walls."""


@dataclass(frozen=True)
class Links:
    """What a role is handed: child's descriptor number -> ours, and the arguments that name them."""

    arguments: Sequence[str]
    fds: Mapping[int, int]


def memory_file(document: object) -> int:
    """A memfd with a JSON document, at offset 0. The caller closes it."""
    fd = os.memfd_create("homebound-settings", os.MFD_CLOEXEC)
    os.write(fd, json.dumps(document).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def start(instance: Instance, spec: Spec, links: Links) -> Child:
    """Start ``spec`` frozen in its cgroup. Nothing of it has run when this returns."""
    cgroup = instance.cgroup(spec.role)
    cgroup.set("cgroup.freeze", "1")
    filter_fd = seccomp.compile_filter(spec.profile)
    try:
        words = command_line(spec, links)
        fds = {2: sys.stderr.fileno(), SECCOMP_FD: filter_fd, **links.fds}
        return spawn.spawn(
            Command(words, fds, oom_score_adjust=spec.oom_score_adjust, limits=limits(spec, cgroup.path)),
            cgroup.path,
        )
    finally:
        os.close(filter_fd)


def command_line(spec: Spec, links: Links) -> list[str]:
    """The words that start the role in its sandbox."""
    closed = sandbox.Closed(spec.profile, tuple(links.fds))
    return sandbox.arguments(
        spec.view, spec.identity, SECCOMP_FD, closed, spec.python, spec.module, links.arguments
    )


def limits(spec: Spec, cgroup: Path) -> Mapping[int, int]:
    """Bounds of setrlimit(2) in place of those for which this host's cgroups have no controller.

    RLIMIT_NPROC counts the tasks of the role's user, RLIMIT_DATA the private memory of each process alone:
    weaker, but a fork bomb and a runaway array end at them.
    """
    wanted = (
        (resource.RLIMIT_NPROC, spec.tasks_max, "pids.max"),
        (resource.RLIMIT_DATA, spec.memory_max_bytes, "memory.max"),
    )
    return {name: bound for name, bound, file in wanted if bound and not (cgroup / file).exists()}


def inspect(
    instance: Instance,
    spec: Spec,
    child: Child,
    links: frozenset[int],
    clock: Callable[[], float] = time.monotonic,
    told: Told = never,
) -> audit.Facts:
    """Wait until the role runs as itself and check its walls from outside.

    execve(2) shows the new program a moment before it takes the credentials that come with it; so those are
    wrong only if they still are a while later. Nobody speaks to the role before this returns.

    Raises WallMissing if one does not stand, HomeboundError if the role never came to run, ToldToStop.
    """
    deadline, settled = clock() + START_SECONDS, 0.0
    while clock() < deadline:
        if told():
            raise ToldToStop
        facts = _role_process(instance, spec, child)
        if facts is not None:
            faults = _faults(spec, facts, links)
            if not faults:
                return facts
            settled = settled or clock() + SETTLE_SECONDS
            if clock() > settled or any(fault.wall != "users" for fault in faults):
                raise _wall_missing(spec, faults)
        if select.select([child.pidfd], [], [], 0.005)[0]:
            break
    raise HomeboundError(
        f"the {spec.role.label} did not start",
        "the lines above this one say why; `homebound doctor` names what is missing",
    )


def _role_process(instance: Instance, spec: Spec, child: Child) -> audit.Facts | None:
    """The process that dropped to the role's user; bubblewrap's own waits above it as root."""
    for pid in instance.cgroup(spec.role).pids():
        if pid == child.pid:
            continue
        try:
            facts = audit.read_facts(pid)
        except (OSError, KeyError, ValueError):
            continue  # it ended, or is between two states
        # Until setpriv has executed the role's Python it is still dropping rights.
        if facts.uids == {spec.identity.uid} and facts.program == spec.program:
            return facts
    return None


def _faults(spec: Spec, facts: audit.Facts, links: frozenset[int]) -> list[audit.Fault]:
    own = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in audit.NAMESPACES}
    expected = audit.Expected(
        uid=spec.identity.uid,
        gid=spec.identity.gid,
        groups=frozenset({spec.identity.gid, *spec.identity.groups}),
        shared_namespaces=spec.shared_namespaces,
        links=links,
    )
    return audit.decide(facts, own, expected)


def _wall_missing(spec: Spec, faults: Sequence[audit.Fault]) -> WallMissing:
    return WallMissing(
        f"the {spec.role.label} runs without a wall: "
        + "; ".join(f"{fault.wall}: {fault.detail}" for fault in faults),
        "it was stopped; report this with the output of `homebound doctor --json`",
    )


def try_walls(
    instance: Instance, spec: Spec, told: Told = never, hooks: Collection[str] = ()
) -> tuple[canary.Trial, ...]:
    """Run the canary inside the sandbox and, for the BPF programs alone, outside it. Every trial judged.

    ``hooks``: which programs on security hooks are there to be tried. Raises ServiceUnavailable when the
    canary cannot be started, ToldToStop.
    """
    asked = [name for name in canary.LSM if name in hooks]
    results: dict[str, int] = {}
    for inside in (True, False):
        receiving, sending = os.pipe()
        try:
            if inside:
                child = start(instance, spec, Links(["sealed"], {1: sending}))
            else:
                # Isolated and by path: this process has no sandbox, so it must not look up modules at will.
                words = [sys.executable, "-I", "-B", str(Path(canary.__file__)), "open", *asked]
                child = spawn.spawn(Command(words, {1: sending, 2: 2}), instance.cgroup(Role.CANARY).path)
            os.close(sending)
            instance.cgroup(Role.CANARY).thaw()
            results.update(_collect(instance, child, receiving, told))
        finally:
            os.close(receiving)
        if inside and not results:
            raise ServiceUnavailable(
                "the canary could not be started, so no wall was tried",
                "the lines above this one say why; `homebound doctor` names what is missing",
            )
    return canary.judge(results, asked)


def _collect(instance: Instance, child: Child, receiving: int, told: Told) -> dict[str, int]:
    """What the canary printed; nothing, if it died or said something else."""
    try:
        text = _read_all(receiving, told)
    finally:
        instance.cgroup(Role.CANARY).kill()
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return {str(name): int(number) for name, number in document.items()}


def _read_all(receiving: int, told: Told) -> bytes:
    """To the end of the pipe, or as much as came in time."""
    deadline = time.monotonic() + CANARY_SECONDS
    text = b""
    while time.monotonic() < deadline:
        if told():
            raise ToldToStop
        if select.select([receiving], [], [], LOOK_SECONDS)[0]:
            part = os.read(receiving, 65536)
            if not part:
                break
            text += part
    return text
