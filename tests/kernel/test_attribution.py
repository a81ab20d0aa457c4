# SPDX-License-Identifier: Apache-2.0
"""Whose bytes: processes and sockets older than the programs, inherited, passed, by threads, by heirs.

A socket belongs for good to the cgroup in which it was made. So whatever a role makes is its own, whoever
uses it; and what was made outside stays outside: it is not counted as a role's, which is told here as it is.
In observe mode, so that a sealed role's bytes are counted and not only its refused socket.
"""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Direction, Role
from kernel.conftest import MakeDevice
from kernel.rig import Device, child, in_child, in_fresh_network

pytestmark = pytest.mark.root

SHOTS, SIZE = 23, 100
V4 = "127.0.0.1"
WANTED = SHOTS * (20 + 8 + SIZE)
ROLES = [Role.GATEWAY, Role.TRAINER]
# What exec starts: knows nothing of this test's modules.
SHOOT = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
    for _ in range({SHOTS}):
        made.sendto(b"x" * {SIZE}, ("{V4}", int(sys.argv[1])))
"""


def sent(device: Device) -> dict[Role, int]:
    """Bytes by role, whatever the verdict."""
    sums: dict[Role, int] = {}
    for key, cell in device.traffic().items():
        if key.direction is Direction.TRANSMIT:
            sums[key.role] = sums.get(key.role, 0) + cell.bytes
    return sums


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def shoot(made: socket.socket, port: int) -> None:
    for _ in range(SHOTS):
        made.sendto(b"x" * SIZE, (V4, port))


def with_server(scene: Callable[[int], Any]) -> Any:
    """Run ``scene`` with the port of a server that is there, in a network of its own."""

    def alone() -> Any:
        with udp() as server:
            server.bind((V4, 0))
            scene(server.getsockname()[1])
            server.setblocking(False)
            return sum(len(server.recv(2048)) for _ in range(SHOTS))

    assert in_fresh_network(alone) == SHOTS * SIZE, "the bytes did not arrive: the test shows nothing"


def by_thread(port: int) -> None:
    def work() -> None:
        with udp() as made:
            shoot(made, port)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def by_grandchild(port: int) -> None:
    """Forked twice, in a session of its own, its parent gone before it sends."""

    def work() -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent, which holds the other end, has ended
                with udp() as made:
                    shoot(made, port)
            os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)

    ended_reading, ended_writing = os.pipe()
    work()
    os.close(ended_writing)
    os.read(ended_reading, 1)  # until the grandchild has ended, too


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("way", [by_thread, by_grandchild])
def test_descendants(make_device: MakeDevice, role: Role, way: Callable[[int], None]) -> None:
    device = make_device(enforce=False)
    with_server(lambda port: device.run(role, lambda: way(port)))
    assert sent(device) == {role: WANTED}


@pytest.mark.parametrize("role", ROLES)
def test_fork_move_exec(make_device: MakeDevice, role: Role) -> None:
    """Forked outside, moved, and then another program: the role's, with the first byte."""
    device = make_device(enforce=False)

    def scene(port: int) -> None:
        pid = os.fork()
        if pid == 0:
            (device.of(role) / "cgroup.procs").write_text("0")
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", SHOOT, str(port)])
        assert os.waitpid(pid, 0)[1] == 0

    with_server(scene)
    assert sent(device) == {role: WANTED}


@pytest.mark.parametrize("role", ROLES)
def test_older_than_the_programs(make_device: MakeDevice, device_cgroup: Path, role: Role) -> None:
    """A process and its connected socket that were in the role's cgroup before any program was."""

    def scene(port: int) -> None:
        go, ready = os.pipe()
        made, told = os.pipe()

        def older() -> None:
            with udp() as mine:
                mine.connect((V4, port))
                os.write(told, b"!")
                os.read(go, 1)
                for _ in range(SHOTS):
                    mine.send(b"x" * SIZE)

        with child(older, device_cgroup / role.label) as result:
            os.read(made, 1)
            device = make_device(enforce=False)  # made in this child, so removed here
            try:
                os.write(ready, b"!")
                result()
                assert sent(device) == {role: WANTED}
            finally:
                device.probes.remove()

    with_server(scene)


@pytest.mark.parametrize("role", ROLES)
def test_older_than_its_role(make_device: MakeDevice, role: Role) -> None:
    """A socket that a process brought along into the role is not the role's; the next that it makes is."""
    device = make_device(enforce=False)

    def scene(port: int) -> None:
        def work() -> None:
            with udp() as brought:
                (device.of(role) / "cgroup.procs").write_text("0")
                brought.connect((V4, port))
                shoot(brought, port)
                assert sent(device) == {}
            with udp() as own:
                own.sendto(b"", (V4, port))

        in_child(work)

    with_server(scene)
    assert sent(device) == {role: 28}


@pytest.mark.parametrize(("maker", "user"), [(Role.GATEWAY, Role.TRAINER), (Role.TRAINER, Role.GATEWAY)])
def test_inherited(make_device: MakeDevice, maker: Role, user: Role) -> None:
    """Made by one role, used by a child in another: the maker's."""
    device = make_device(enforce=False)

    def scene(port: int) -> None:
        def work() -> None:
            with udp() as made:
                in_child(lambda: shoot(made, port), device.of(user))

        device.run(maker, work)

    with_server(scene)
    assert sent(device) == {maker: WANTED}


@pytest.mark.parametrize("maker", [Role.GATEWAY, None])
def test_passed(make_device: MakeDevice, maker: Role | None) -> None:
    """Handed to a trainer over SCM_RIGHTS: still the maker's, or nobody's of ours."""
    device = make_device(enforce=False)

    def scene(port: int) -> None:
        near, far = socket.socketpair()

        def hand_over() -> None:
            with udp() as made:
                rights = array.array("i", [made.fileno()])
                near.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

        def use() -> None:
            _, fds, _, _ = socket.recv_fds(far, 1, 1)
            with socket.socket(fileno=fds[0]) as got:
                shoot(got, port)

        in_child(hand_over, device.of(maker) if maker else None)
        device.run(Role.TRAINER, use)

    with_server(scene)
    assert sent(device) == ({maker: WANTED} if maker else {})


def test_outside_is_not_ours(make_device: MakeDevice) -> None:
    """The rest of the host, and another program in it, are never counted."""
    device = make_device(enforce=False)
    with_server(lambda port: subprocess.run([sys.executable, "-I", "-c", SHOOT, str(port)], check=True))
    assert device.traffic() == {}
    assert device.denied() == {}
