# SPDX-License-Identifier: Apache-2.0
"""Counters and events are read right: without any capability, and under a flood (made = seen + lost)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebound import events
from homebound.events import Event, Flaw, Program, Role, Rule
from homebound.kernel import bpf, maps
from homebound.kernel.maps import EventStream
from kernel.rig import Device, child, in_child

pytestmark = pytest.mark.root

SHOTS = 23
FLOOD = 20_011  # prime; the ring buffer holds 2978
STRANGER = 60601


def shoot(count: int = SHOTS) -> int:
    """Try to make that many sockets; returns how many were refused."""
    refused = 0
    for _ in range(count):
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        except PermissionError:
            refused += 1
    return refused


def become_stranger() -> None:
    """An ordinary user; asserts that no capability is left."""
    os.setgroups([])
    os.setresgid(STRANGER, STRANGER, STRANGER)
    os.setresuid(STRANGER, STRANGER, STRANGER)
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16)) == (0, 0)
    assert status["Uid"].split() == [str(STRANGER)] * 4


def test_reading_without_rights(device: Device) -> None:
    """What the watcher does: three maps through read-only descriptors, the ring buffer by its own."""
    device.run(Role.TRAINER, shoot)
    fds = {name: device.probes.read_fd(name) for name in ("traffic", "denied", "program_state")}

    def read() -> Any:
        become_stranger()
        denied = maps.read_denied(fds["denied"])
        state = maps.read_program_state(fds["program_state"])[Program.SOCK_CREATE]
        traffic = maps.read_traffic(fds["traffic"])
        with EventStream(device.probes.map_fd("events")) as stream:
            events = [event for event in stream.poll(0) if event.rule is not None]
            again = stream.poll(0)
        cost = bpf.program_info(device.probes.programs_open["hb_sock_create"][0])
        return [
            denied[Role.TRAINER, Rule.SOCK_CREATE],
            [state.made, state.lost, state.failed_lookups],
            sum(cell.packets for cell in traffic.values()),
            [event.rule for event in events],
            len(again),
            cost.runs,
        ]

    try:
        assert in_child(read) == [SHOTS, [SHOTS, 0, 0], 0, [Rule.SOCK_CREATE] * SHOTS, 0, SHOTS]
        # The position is the ring buffer's, not the reader's: what the stranger took is taken.
        assert device.events() == []
        device.run(Role.TRAINER, shoot)
        assert len(device.events()) == SHOTS
    finally:
        for fd in fds.values():
            os.close(fd)


def test_read_only_descriptors_cannot_write(device: Device) -> None:
    """Nobody can grant by a descriptor that is for reading; with the writable one it works (the control)."""
    reading = device.probes.read_fd("allow")
    key = bytes(24)
    try:
        with pytest.raises(PermissionError):
            bpf.update(reading, key, bytes(8))
    finally:
        os.close(reading)
    bpf.update(device.probes.map_fd("allow"), key, bytes(8))
    assert bpf.delete(device.probes.map_fd("allow"), key)
    assert not bpf.delete(device.probes.map_fd("allow"), key)


def test_stranger_without_descriptors_has_nothing(device: Device) -> None:
    """Neither the pins nor a map of its own."""

    def attempt() -> list[str]:
        become_stranger()
        actions: list[Callable[[], int]] = [lambda: device.probes.read_fd("denied"), bpf.create_array]
        outcomes = []
        for action in actions:
            try:
                action()
                outcomes.append("worked")
            except PermissionError:
                outcomes.append("refused")
        return outcomes

    assert in_child(attempt) == ["refused", "refused"]
    os.close(bpf.create_array())  # the control


def test_flood_loses_exactly_what_it_counts(device: Device) -> None:
    """Nobody reads: the buffer fills, the rest is counted as lost, and denying needs no event."""
    assert device.run(Role.TRAINER, lambda: shoot(FLOOD)) == FLOOD
    seen = len(device.events())
    state = maps.read_program_state(device.probes.map_fd("program_state"))[Program.SOCK_CREATE]
    assert state.made == FLOOD == seen + state.lost
    assert state.lost > 0, "nothing was lost: the test shows nothing"
    assert device.denied() == {(Role.TRAINER, Rule.SOCK_CREATE): FLOOD}
    assert device.run(Role.TRAINER, shoot) == SHOTS
    assert len(device.events()) == SHOTS  # there is room again


def test_reading_during_a_flood(device: Device) -> None:
    """Two writers and a reader at once: every event whole, in order by thread, seen or counted as lost."""
    seen: list[Event] = []
    with (
        child(lambda: shoot(FLOOD), device.of(Role.TRAINER)) as first,
        child(lambda: shoot(FLOOD), device.of(Role.GUARD)) as second,
    ):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            seen += [event for event in device.stream.poll(100) if event.rule is not None]
            state = maps.read_program_state(device.probes.map_fd("program_state"))[Program.SOCK_CREATE]
            if state.made == 2 * FLOOD:
                break
        assert first() == second() == FLOOD
    seen += device.events()
    state = maps.read_program_state(device.probes.map_fd("program_state"))[Program.SOCK_CREATE]
    assert state.made == 2 * FLOOD == len(seen) + state.lost
    assert sum(device.stream.undecoded.values()) == 0
    for role in (Role.TRAINER, Role.GUARD):
        times = [event.time_ns for event in seen if event.role is role]
        assert times == sorted(times)
        assert len(times) > 0
    print(f"flood: {len(seen)} of {2 * FLOOD} events read beside two writers")


def test_poll_waits_and_wakes(device: Device) -> None:
    """No event: the wait runs out. An event during the wait: it ends early."""
    assert device.stream.poll(10) == []

    def late() -> int:
        time.sleep(0.2)
        return shoot(1)

    with child(late, device.of(Role.TRAINER)) as shot:
        began = time.monotonic()
        events = [event for event in device.stream.poll(20_000) if event.rule is not None]
        assert time.monotonic() - began < 10
        assert (len(events), shot()) == (1, 1)


def test_unknown_records_are_counted(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program newer than its reader: nothing is guessed, nothing is passed over in silence."""
    monkeypatch.setattr("homebound.events.VERSION", events.VERSION + 1)
    device.run(Role.TRAINER, shoot)
    assert device.events() == []
    states = maps.read_program_state(device.probes.map_fd("program_state")).values()
    assert device.stream.undecoded[Flaw.VERSION] == sum(state.made for state in states) >= SHOTS


def test_possible_cpus(tmp_path: Path) -> None:
    """Ranges and single numbers, as the kernel writes them."""
    folder = tmp_path / "devices/system/cpu"
    folder.mkdir(parents=True)
    for text, count in (("0\n", 1), ("0-3\n", 4), ("0,2-3,8-11\n", 7)):
        (folder / "possible").write_text(text)
        assert maps.possible_cpus(tmp_path) == count
