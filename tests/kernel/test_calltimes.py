# SPDX-License-Identifier: Apache-2.0
"""How long the trainer's calls take: as many as were made, no shorter than they slept, no longer than was
measured around them. Of other roles and of the host nothing is timed, nor what a filter refuses."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Mapping
from typing import Any

import pytest

from homebound.events import CallClass, Role
from homebound.kernel import calltimes
from homebound.kernel.calltimes import NONE, CallTimes
from kernel.rig import Device, in_child
from kernel.test_syscalls import LIBC, become_stranger, call, refuse

pytestmark = pytest.mark.root

SHOTS = 23
SLEEP_MS = 20
SLEEP_SLOT = 24  # 16.8 ms: what slept is above


def counted(device: Device) -> Mapping[CallClass, CallTimes]:
    """The classes of which there was a call."""
    found = calltimes.read(device.probes.map_fd("call_times"))
    return {kind: times for kind, times in found.items() if times != NONE}


def calls(times: CallTimes | None) -> int:
    return sum(times.slots) if times else 0


def test_every_call_is_timed(device: Device) -> None:
    """1000 more calls of a class are 1000 more there, against the same without them."""

    def shoot(rounds: int) -> None:
        for _ in range(rounds):
            LIBC.access(b"/", 0)

    device.run(Role.TRAINER, lambda: shoot(0))
    before = calls(counted(device)[CallClass.FILE])
    device.run(Role.TRAINER, lambda: shoot(1000))
    assert 1000 <= calls(counted(device)[CallClass.FILE]) - 2 * before < 1100


def test_a_call_that_sleeps(device: Device) -> None:
    """It takes as long as it slept, and less than whoever called measured."""

    def shoot() -> Any:
        poller, around = select.poll(), 0
        for _ in range(SHOTS):
            began = time.monotonic_ns()
            poller.poll(SLEEP_MS)
            around += time.monotonic_ns() - began
        return around

    measured = device.run(Role.TRAINER, shoot)
    times = counted(device)[CallClass.IPC]
    slow = calls(times) - times.at_most(SLEEP_SLOT)
    print(f"{SHOTS} calls slept: {times.total_ns / 1e6:.2f} ms, measured around them {measured / 1e6:.2f} ms")
    assert slow == SHOTS
    assert times.total_ns >= SHOTS * SLEEP_MS * 1_000_000
    # Calls of that class besides took no more than their slots say.
    others = sum(count << slot for slot, count in enumerate(times.slots[: SLEEP_SLOT + 1]))
    assert times.total_ns <= measured + others


def test_what_a_filter_refuses_never_enters(device: Device) -> None:
    """The twin is the same without a filter."""

    def shoot(*names: str) -> Any:
        become_stranger()
        for name in names:
            refuse(name)
        return sum(call("ptrace", 0x4206, 1 << 22, 0, 0) == -errno.EPERM for _ in range(SHOTS))

    assert device.run(Role.TRAINER, lambda: shoot("ptrace")) == SHOTS
    refused = calls(counted(device).get(CallClass.PRIVILEGED))
    assert device.run(Role.TRAINER, shoot) == 0
    assert calls(counted(device).get(CallClass.PRIVILEGED)) - refused >= SHOTS + refused
    assert refused < SHOTS


def test_of_others_nothing_is_timed(device: Device) -> None:
    """Other roles, a cgroup without a role, the host."""

    def shoot() -> None:
        for _ in range(SHOTS):
            LIBC.access(b"/", 0)

    for role in Role:
        if role is not Role.TRAINER:
            device.run(role, shoot)
    in_child(shoot)
    assert counted(device) == {}


def test_one_that_left_is_timed_no_more(device: Device) -> None:
    """The call that moves it was entered in the role and counts; the next does not."""
    # Opened outside: where there are programs on security hooks the role could not.
    home = os.open(device.cgroup.parent / "cgroup.procs", os.O_WRONLY)

    def leave() -> None:
        os.write(home, b"0")
        for _ in range(1000):
            LIBC.access(b"/", 0)

    device.run(Role.TRAINER, leave)
    os.close(home)
    assert 0 < calls(counted(device)[CallClass.FILE]) < 100
