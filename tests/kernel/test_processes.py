# SPDX-License-Identifier: Apache-2.0
"""Processes of a role: 23 forks, execs and exits are counted and told 23 times; so is every move of a process
out of a role or into it that the supervisor did not make. Outside of the device nothing counts."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Event, Flag, Kind, Processes, Program, Role, Rule
from homebound.kernel import bpf, maps
from kernel.rig import Device, child, in_child, with_map

pytestmark = pytest.mark.root

SHOTS = 23
FLOOD = 1_000
# By a small process: to fork one that holds pytest takes 30 times as long.
SPAWN_MANY = """
import os, sys
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""
NOTHING = Processes(0, 0, 0, 0, 0, 0, 0)
CLONE_INTO_CGROUP, CLONE3 = 1 << 33, 435
ROOM_BYTES = 64 << 20


@pytest.fixture
def device(device: Device) -> Device:
    """With the programs that read structs of the kernel."""
    return with_map(device, "processes")


def counted(device: Device) -> dict[Role, Processes]:
    """The roles of which there is something to tell."""
    found = maps.read_processes(device.probes.map_fd("processes"))
    return {role: counts for role, counts in found.items() if counts != NOTHING}


def attempts(device: Device) -> dict[tuple[Role, Rule], int]:
    """The counts that are not zero."""
    found = maps.read_attempts(device.probes.map_fd("attempts"))
    return {key: count for key, count in found.items() if count}


def kinds(events: list[Event]) -> dict[Kind, int]:
    return dict(Counter(event.kind for event in events))


def spawn(code: int = 0, number: int = 0, program: str = "") -> int:
    """A child that ends at once, by exit code, signal, or as another program. Returns its wait status."""
    pid = os.fork()
    if pid == 0:
        if number:
            os.kill(os.getpid(), number)
        if program:
            os.execv(program, [program])
        os._exit(code)
    return os.waitpid(pid, 0)[1]


def test_forks_and_exits(device: Device) -> None:
    """Every child, its exit code, and whose it was; the same outside counts nothing."""

    def shoot() -> Any:
        return [os.getpid(), [spawn(code=7) for _ in range(SHOTS)]]

    pid, statuses = device.run(Role.TRAINER, shoot)
    assert statuses == [7 << 8] * SHOTS
    found = counted(device)[Role.TRAINER]
    assert (found.forks, found.execs, found.exits, found.killed) == (SHOTS, 0, SHOTS + 1, 0)
    events = device.activity()
    assert kinds(events) == {Kind.PROCESS_FORK: SHOTS, Kind.PROCESS_EXIT: SHOTS + 1}
    forks = [event for event in events if event.kind is Kind.PROCESS_FORK]
    exits = [event for event in events if event.kind is Kind.PROCESS_EXIT]
    assert {(event.pid, event.role, event.rule) for event in forks} == {(pid, Role.TRAINER, None)}
    born, died = {event.detail for event in forks}, {event.pid: event.result for event in exits}
    assert died == dict.fromkeys(born, 7 << 8) | {pid: 0}
    in_child(shoot)
    assert counted(device) == {Role.TRAINER: found}
    assert device.activity() == []


def test_signals_are_told_apart(device: Device) -> None:
    """An exit by a signal has the signal as its result."""
    statuses = device.run(Role.GUARD, lambda: [spawn(number=signal.SIGKILL) for _ in range(SHOTS)])
    found = counted(device)[Role.GUARD]
    assert (found.exits, found.killed, found.oom_kills) == (SHOTS + 1, SHOTS, 0)
    results = [event.result for event in device.activity() if event.kind is Kind.PROCESS_EXIT]
    assert sorted(results) == [0, *statuses] == [0, *[signal.SIGKILL] * SHOTS]


@pytest.fixture
def tight(device: Device) -> Device:
    """A trainer that may have little memory, on a host whose cgroup v2 has the controller."""
    if "memory" not in (device.cgroup / "cgroup.controllers").read_text().split():
        pytest.skip("this host's cgroup v2 has no memory controller")
    (device.cgroup / "cgroup.subtree_control").write_text("+memory")
    trainer = device.of(Role.TRAINER)
    (trainer / "memory.max").write_text(str(ROOM_BYTES))
    (trainer / "memory.swap.max").write_text("0")
    return device


def test_a_victim_of_the_oom_killer_is_told_apart(tight: Device) -> None:
    """Killed as by anybody else, but said to be its victim, in the count and in the event."""

    def shoot() -> Any:
        pid = os.fork()
        if pid == 0:
            held = bytearray(4 * ROOM_BYTES)
            held[::4096] = b"x" * len(held[::4096])
            os._exit(0)
        return [pid, os.waitpid(pid, 0)[1]]

    killed = [tight.run(Role.TRAINER, shoot) for _ in range(3)]
    assert {status for _, status in killed} == {signal.SIGKILL}
    found = counted(tight)[Role.TRAINER]
    assert (found.killed, found.oom_kills) == (3, 3)
    flags = {event.pid: event.flags for event in tight.activity() if event.kind is Kind.PROCESS_EXIT}
    assert {pid: flags.pop(pid) for pid, _ in killed} == {pid: Flag.OOM for pid, _ in killed}
    assert set(flags.values()) == {0}


def test_execs(device: Device) -> None:
    """A child that becomes another program."""
    assert device.run(Role.TRAINER, lambda: sum(spawn(program="/bin/true") for _ in range(SHOTS))) == 0
    assert counted(device)[Role.TRAINER].execs == SHOTS
    assert kinds(device.activity())[Kind.PROCESS_EXEC] == SHOTS


def test_threads_are_no_processes(device: Device) -> None:
    """They are counted by themselves, make no event and no exit."""

    def shoot() -> None:
        for _ in range(SHOTS):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    device.run(Role.TRAINER, shoot)
    found = counted(device)[Role.TRAINER]
    assert (found.threads, found.forks, found.exits) == (SHOTS, 0, 1)
    assert kinds(device.activity()) == {Kind.PROCESS_EXIT: 1}


def test_peak_memory(device: Device) -> None:
    """What the kernel itself says of a child (getrusage(2)), to the page."""

    def shoot() -> Any:
        pid = os.fork()
        if pid == 0:
            held = bytearray(64 << 20)
            held[::4096] = b"x" * len(held[::4096])
            os._exit(0)
        os.waitpid(pid, 0)
        return [pid, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]

    pid, peak = device.run(Role.TRAINER, shoot)
    (event,) = (e for e in device.activity() if e.kind is Kind.PROCESS_EXIT and e.pid == pid)
    assert event.detail == peak > 64 << 20
    assert counted(device)[Role.TRAINER].peak_bytes == peak


def test_a_flood_loses_exactly_what_it_counts(device: Device) -> None:
    """made = seen + lost, and half of the buffer stays free for refusals."""
    words = [sys.executable, "-I", "-S", "-c", SPAWN_MANY, str(FLOOD)]
    assert device.run(Role.TRAINER, lambda: subprocess.run(words, check=True).returncode) == 0
    seen = kinds(device.activity())
    state = maps.read_program_state(device.probes.map_fd("program_state"))
    for kind, program, made in (
        (Kind.PROCESS_FORK, Program.PROCESS_FORK, FLOOD + 1),
        (Kind.PROCESS_EXIT, Program.PROCESS_EXIT, FLOOD + 2),
    ):
        assert state[program].made == made == seen[kind] + state[program].lost
        assert state[program].lost > 0, "nothing was lost: the test shows nothing"
    assert sum(seen.values()) * 96 <= 128 * 1024 + 96
    assert all(counts.failed_lookups == 0 for counts in state.values())


def move(pid: int, cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(pid))


def moved(device: Device) -> list[tuple[Role, int, int]]:
    """Role, flags and the moved process of every attempt that was told."""
    found = [event for event in device.activity() if event.kind is Kind.ATTEMPT]
    assert all(event.rule is Rule.CGROUP and event.program is Program.PROCESS_MOVE for event in found)
    return [(event.role, event.flags, event.detail) for event in found]


def test_moves_of_others(device: Device) -> None:
    """Into a role, between roles, out of it; unarmed, in version 1, and below the role it is no attempt."""
    pause = signal.pause
    home = device.cgroup.parent
    (device.of(Role.TRAINER) / "below").mkdir()
    with child(lambda: pause()) as _:
        pid = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])
        move(pid, device.of(Role.TRAINER))
        assert attempts(device) == {}
        move(pid, home)
        device.probes.arm()
        for _ in range(SHOTS):
            move(pid, device.of(Role.TRAINER))
            move(pid, device.of(Role.TRAINER) / "below")
            move(pid, device.of(Role.GUARD))
            move(pid, home)
        wanted = [
            (Role.TRAINER, Flag.ENTERED, pid),
            (Role.TRAINER, Flag.LEFT | Flag.ENTERED, pid),
            (Role.GUARD, Flag.LEFT, pid),
        ]
        assert moved(device) == wanted * SHOTS
        assert attempts(device) == {
            (Role.TRAINER, Rule.CGROUP): 2 * SHOTS,
            (Role.GUARD, Rule.CGROUP): SHOTS,
        }


def test_a_role_that_leaves_by_itself(device: Device) -> None:
    """Root inside of a role moves itself out: told with its own id, 23 times."""
    home = device.cgroup.parent

    def leave() -> int:
        move(0, home)
        return os.getpid()

    def parent() -> Any:
        """As the supervisor, whose children may enter; then each leaves on its own."""
        return [in_child(leave, device.of(Role.GATEWAY)) for _ in range(SHOTS)]

    pids = in_supervisor(device.of(Role.SUPERVISOR), parent, device)
    assert moved(device) == [(Role.GATEWAY, Flag.LEFT, pid) for pid in pids]
    assert attempts(device) == {(Role.GATEWAY, Rule.CGROUP): SHOTS}


def in_supervisor(cgroup: Path, function: Any, device: Device) -> Any:
    """Run as a supervisor that entered its cgroup before the programs were armed."""

    def act() -> Any:
        device.probes.arm()
        return function()

    return in_child(act, cgroup)


def test_the_supervisor_may_move_whom_it_likes(device: Device) -> None:
    """Its children that move themselves, and others that it moves: no attempt."""

    def act() -> Any:
        for role in (Role.TRAINER, Role.GUARD, Role.GATEWAY, Role.WATCHER):
            in_child(lambda: 0, device.of(role))
        pid = os.fork()
        if pid == 0:
            signal.pause()
        for role in (Role.TRAINER, Role.GUARD):
            move(pid, device.of(role))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 0

    in_supervisor(device.of(Role.SUPERVISOR), act, device)
    assert moved(device) == []
    assert attempts(device) == {}


def test_clone_into_another_cgroup(device: Device) -> None:
    """A role's child that is born elsewhere (CLONE_INTO_CGROUP) has left."""
    home = os.open(device.cgroup.parent, os.O_RDONLY | os.O_DIRECTORY)

    def shoot() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        for _ in range(SHOTS):
            words = struct.pack("11Q", CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, home)
            pid = libc.syscall(ctypes.c_long(CLONE3), words, ctypes.c_size_t(len(words)))
            if pid == 0:
                os._exit(0)
            assert pid > 0
            os.waitpid(pid, 0)
        return 0

    in_supervisor(device.of(Role.SUPERVISOR), lambda: in_child(shoot, device.of(Role.TRAINER)), device)
    os.close(home)
    assert attempts(device) == {(Role.TRAINER, Rule.CGROUP): SHOTS}
    found = [event for event in device.activity() if event.kind is Kind.ATTEMPT]
    assert {(event.role, event.flags, event.program) for event in found} == {
        (Role.TRAINER, Flag.LEFT, Program.PROCESS_FORK)
    }
    assert len(found) == SHOTS


def test_members_are_forgotten(device: Device) -> None:
    """The map of who belongs where does not grow."""
    device.run(Role.TRAINER, lambda: sum(spawn() for _ in range(SHOTS)))
    with pytest.raises(OSError, match="No such file"):
        bpf.call(bpf.MAP_GET_NEXT_KEY, bpf._Element(device.probes.map_fd("members"), 0, 8, 0))
