# SPDX-License-Identifier: Apache-2.0
"""The kernel's list of a cgroup's sockets: all of them, with their other end, and nobody else's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Role
from homebound.kernel.socketdiag import Found, sockets
from homebound.supervisor.sockets import GatewaySockets
from kernel.rig import child, in_child, in_fresh_network

pytestmark = pytest.mark.root

SHOTS = 23
V4, V6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
def test_each_connection_is_listed(device_cgroup: Path, address: str) -> None:
    """23 connections, a connected UDP socket and a listener; the server's own ends are not the cgroup's."""
    gateway = device_cgroup / Role.GATEWAY.label
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listens = socket.AF_INET6 if address == V6 else socket.AF_INET

    def scene() -> Any:
        near, far = socket.socketpair()
        host = "::" if address == MAPPED else address
        with socket.create_server(
            (host, 0), family=family, dualstack_ipv6=address == MAPPED, backlog=SHOTS
        ) as server:
            port = server.getsockname()[1]

            def hold() -> None:
                held = [socket.create_connection((address, port)) for _ in range(SHOTS)]
                held.append(socket.socket(family, socket.SOCK_DGRAM))
                held[-1].connect((address, 9))
                held.append(socket.create_server((V6 if address == V6 else V4, 0), family=listens))
                near.send(b"!")
                near.recv(1)

            with child(hold, gateway) as result:
                far.recv(1)
                found = sockets(gateway.stat().st_ino)
                others = sockets((device_cgroup / Role.TRAINER.label).stat().st_ino)
                far.send(b"!")
                result()
            return port, [vars(entry) for entry in found], len(others)

    port, listed, others = in_fresh_network(scene)
    found = [Found(**entry) for entry in listed]
    plain = V4 if address == MAPPED else address
    assert others == 0
    assert len([e for e in found if (e.state, e.address, e.port) == ("established", plain, port)]) == SHOTS
    assert [(e.protocol, e.state, e.address) for e in found if e.port == 9] == [("udp", "established", plain)]
    assert [e.protocol for e in found if e.state == "listen"] == ["tcp"]
    assert len(found) == SHOTS + 2


def test_unknown_ends_are_told_once(device_cgroup: Path) -> None:
    """The one endpoint is known; a second connection to somewhere else, and a UDP socket, are not."""
    gateway = device_cgroup / Role.GATEWAY.label

    def scene() -> Any:
        near, far = socket.socketpair()
        keep = GatewaySockets(lambda: sockets(gateway.stat().st_ino))
        with socket.create_server((V4, 0)) as server, socket.create_server((V4, 0)) as other:
            ports = server.getsockname()[1], other.getsockname()[1]
            keep.allow(V4, ports[0])

            def hold() -> None:
                held = [socket.create_connection((V4, ports[0]))]
                near.send(b"!")
                near.recv(1)
                held.append(socket.create_connection((V4, ports[1])))
                held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                held[-1].bind((V4, 0))  # one without a port reaches nobody, and the kernel lists it nowhere
                near.send(b"!")
                near.recv(1)

            reports = []
            with child(hold, gateway) as result:
                far.recv(1)
                reports.append(keep.report())
                far.send(b"!")
                far.recv(1)
                reports += [keep.report(), keep.report()]
                document = keep.document()
                far.send(b"!")
                result()
            reports.append(keep.report())
            return reports, document["unknown"], ports[1]

    reports, unknown, port = in_fresh_network(scene)
    assert [(r["connected"], r["other"], r["new_unknown"]) for r in reports] == [
        (1, 0, 0), (2, 1, 2), (2, 1, 0), (0, 0, 0),
    ]  # fmt: skip
    assert sorted(unknown) == [f"tcp established {V4} {port}", "udp closed 0.0.0.0 0"]


def test_a_kernel_that_does_not_answer_is_said() -> None:
    def refuse() -> list[Found]:
        raise OSError(2, "No such file or directory")

    keep = GatewaySockets(refuse)
    assert keep.report() == {"type": "sockets", "known": False}
    assert "does not list sockets" in keep.document()["trouble"]


def test_without_any_right(device_cgroup: Path) -> None:
    def stranger() -> Any:
        import os

        os.setresuid(60601, 60601, 60601)
        return sockets(device_cgroup.stat().st_ino)

    assert in_child(stranger) == []
