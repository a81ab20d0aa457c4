# SPDX-License-Identifier: Apache-2.0
"""System calls of a role that nothing refused: 23 of the dangerous ones are 23 attempts, by rule and by name;
every call is counted by class where that is wanted. Outside of the device nothing counts."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conftest import ROOT
from homebound.events import CallClass, Kind, Program, Role, Rule, Shape
from homebound.kernel import calls, maps, seccomp, syscalls
from kernel.conftest import MakeDevice
from kernel.rig import Device, in_child
from kernel.test_syscalls import LIBC, become_stranger, call, number, refuse

pytestmark = pytest.mark.root

SHOTS = 23
X32_BIT, GETPPID_X32 = 0x40000000, 110


@dataclass(frozen=True)
class Attempt:
    """A call that an ordinary user makes without being refused; what it returns does not matter."""

    rule: Rule | None
    name: str
    arguments: tuple[int | bytes | None, ...]


ATTEMPTS = {
    "io_uring": Attempt(Rule.IO_URING, "io_uring_setup", (0, bytes(120))),
    "bpf": Attempt(Rule.KERNEL, "bpf", (99, bytes(8), 8)),
    "ptrace": Attempt(Rule.TRACE, "ptrace", (0x4206, 1 << 22, 0, 0)),
    "setns": Attempt(Rule.NAMESPACE, "setns", (-1, 0)),
    "unshare": Attempt(Rule.NAMESPACE, "unshare", (0x400,)),
    "mount": Attempt(Rule.NAMESPACE, "mount", (1, 1, 1, 0, None)),
    "pidfd_getfd": Attempt(Rule.TRACE, "pidfd_getfd", (-1, 0, 0)),
    "process_vm_readv": Attempt(Rule.TRACE, "process_vm_readv", (1 << 22, None, 0, None, 0, 0)),
    "process_vm_writev": Attempt(Rule.TRACE, "process_vm_writev", (1 << 22, None, 0, None, 0, 0)),
    "keyctl": Attempt(Rule.KERNEL, "keyctl", (99, 0, 0)),
    "nothing of it": Attempt(None, "getppid", ()),
    "clone without a namespace": Attempt(None, "clone3", (None, 0)),
}


def attempts(device: Device) -> dict[tuple[Role, Rule], int]:
    found = maps.read_attempts(device.probes.map_fd("attempts"))
    return {key: count for key, count in found.items() if count}


def counted(device: Device, role: Role) -> dict[CallClass, int]:
    return dict(maps.read_calls(device.probes.map_fd("calls"))[role].by_class)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempts(device: Device, name: str) -> None:
    """By an ordinary user; whether it worked or failed, nothing refused it."""
    attempt = ATTEMPTS[name]

    def shoot() -> list[int]:
        become_stranger()
        return [call(attempt.name, *attempt.arguments) for _ in range(SHOTS)]

    results = device.run(Role.TRAINER, shoot)
    assert not {-errno.EPERM, -errno.EACCES, -errno.EROFS} & set(results), results
    wanted = {(Role.TRAINER, attempt.rule): SHOTS} if attempt.rule else {}
    assert attempts(device) == wanted
    assert device.denied() == {}
    told = [event for event in device.events() if event.kind is Kind.ATTEMPT]
    assert [(e.rule, e.syscall, e.result, e.program) for e in told] == [
        (attempt.rule, number(attempt.name), result, Program.CALLS) for result in results if attempt.rule
    ]
    by_name = calls.read_dangerous(device.probes.map_fd("dangerous"))
    assert by_name == ({attempt.name: SHOTS} if attempt.rule else {})
    in_child(shoot)
    assert attempts(device) == wanted


def test_refused_ones_are_counted_by_name_only(device: Device) -> None:
    """hb_syscall_exit has them; none is counted as an attempt besides."""

    def shoot() -> int:
        become_stranger()
        refuse("ptrace")
        return sum(call("ptrace", 0, 0, 0, 0) == -errno.EPERM for _ in range(SHOTS))

    assert device.run(Role.GUARD, shoot) == SHOTS
    assert device.denied() == {(Role.GUARD, Rule.TRACE): SHOTS}
    assert attempts(device) == {}
    assert calls.read_dangerous(device.probes.map_fd("dangerous")) == {"ptrace": SHOTS}


def test_whoever_starts_a_role_is_passed_over(device: Device) -> None:
    """Root makes namespaces and mounts for it; so does the supervisor, whoever it is."""
    device.run(Role.TRAINER, lambda: [call("unshare", 0x400) for _ in range(SHOTS)])

    def shoot() -> None:
        become_stranger()
        for _ in range(SHOTS):
            call("unshare", 0x400)

    device.run(Role.SUPERVISOR, shoot)
    device.run(Role.NONE, shoot)
    assert attempts(device) == {}


def test_the_watcher_reads_its_maps(device: Device) -> None:
    """bpf(2) is its work, and nobody else's (the twin is the attempt above); ptrace is not."""

    def shoot() -> None:
        become_stranger()
        for _ in range(SHOTS):
            call("bpf", 99, bytes(8), 8)
            call("ptrace", 0x4206, 1 << 22, 0, 0)

    device.run(Role.WATCHER, shoot)
    assert attempts(device) == {(Role.WATCHER, Rule.TRACE): SHOTS}


SAMPLES: dict[CallClass, Callable[[], object]] = {
    CallClass.FILE: lambda: LIBC.access(b"/", 0),
    CallClass.NETWORK: lambda: LIBC.shutdown(-1, 0),
    CallClass.PROCESS: lambda: LIBC.sched_yield(),
    CallClass.MEMORY: lambda: LIBC.munlockall(),
    CallClass.IPC: lambda: os.close(os.eventfd(0)),
    CallClass.PRIVILEGED: lambda: LIBC.syscall(ctypes.c_long(number("setfsuid")), 0),
    CallClass.OTHER: lambda: LIBC.getppid(),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_classes(make_device: MakeDevice, kind: CallClass) -> None:
    """1000 more calls of a class are 1000 more there, against the same without them."""
    device = make_device(count_calls=True)

    def shoot(rounds: int) -> None:
        for _ in range(rounds):
            SAMPLES[kind]()

    device.run(Role.TRAINER, lambda: shoot(0))
    before = counted(device, Role.TRAINER)[kind]
    device.run(Role.TRAINER, lambda: shoot(1000))
    assert 1000 <= counted(device, Role.TRAINER)[kind] - 2 * before < 1100
    assert sum(counted(device, Role.GUARD).values()) == 0


def test_nothing_is_counted_unless_wanted(device: Device) -> None:
    """The twin: the same without the setting."""
    device.run(Role.TRAINER, lambda: [os.getppid() for _ in range(1000)])
    assert sum(counted(device, Role.TRAINER).values()) == 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86_64 has x32")
def test_x32_is_told_apart(device: Device) -> None:
    """Most kernels have no x32 and answer ENOSYS: it is counted all the same, and as nothing else."""
    device.run(
        Role.TRAINER, lambda: [LIBC.syscall(ctypes.c_long(X32_BIT | GETPPID_X32)) for _ in range(SHOTS)]
    )
    found = maps.read_calls(device.probes.map_fd("calls"))
    assert {role: (counts.x32, counts.compat) for role, counts in found.items() if counts.x32} == {
        Role.TRAINER: (SHOTS, 0)
    }


def test_what_the_watcher_may_ask_of_bpf_is_one_list() -> None:
    """Its filter lets it make these calls, and the program takes no others for reading."""
    text = (ROOT / "bpf/calls.bpf.c").read_text()
    assert tuple(map(int, re.findall(r"command == (\d+)", text))) == seccomp.BPF_READS


def test_table() -> None:
    """Each name once, each a call that some architecture has; what is dangerous has a class of its own."""
    names = [name for text in calls.LISTS.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert all(number(name) != -1 for name in names)
    classes = calls.classes()
    assert set(classes.values()) == set(CallClass) - {CallClass.OTHER}
    assert max(classes) < 512
    assert classes[number("ptrace")] is CallClass.PRIVILEGED
    assert {number(name) for name in syscalls.LISTS[Rule.IO_URING, Shape.PLAIN].split()} <= set(classes)
