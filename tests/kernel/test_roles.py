# SPDX-License-Identifier: Apache-2.0
"""What a role is, beyond its sockets: the watcher answers, sealed roles hear nothing, observing allows."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from homebound.errors import InternalError
from homebound.events import Direction, Role, Rule, Verdict
from homebound.kernel import bpf, probes
from kernel.conftest import MakeDevice
from kernel.rig import Device, child, in_fresh_network
from kernel.test_egress import (
    ATTEMPT_SECONDS,
    PATIENCE,
    SEALED,
    SHOTS,
    SOCKETS,
    TCP,
    V4,
    V6,
    connect,
    listener,
    make_socket,
    refusals,
)

pytestmark = pytest.mark.root


@pytest.mark.parametrize("address", [V4, V6])
def test_server_side(device: Device, address: str) -> None:
    """The watcher answers from its metrics port to whoever asks, and from no other port."""

    def serve(ready: int, port_allowed: bool) -> Any:
        with listener(address) as server:
            port = server.getsockname()[1]
            if port_allowed:
                device.probes.allow(Role.WATCHER, "", port, TCP, 1)
            os.write(ready, port.to_bytes(2, "big"))
            server.settimeout(PATIENCE if port_allowed else ATTEMPT_SECONDS)
            try:
                peer = server.accept()[0]
            except TimeoutError:
                return "nobody"
            with peer:
                peer.sendall(b"metrics")
                return "served"

    def ask(port_allowed: bool) -> Any:
        reading, writing = os.pipe()
        with child(lambda: serve(writing, port_allowed), device.of(Role.WATCHER)) as served:
            port = int.from_bytes(os.read(reading, 2), "big")
            seconds = PATIENCE if port_allowed else ATTEMPT_SECONDS
            try:
                with socket.create_connection((address, port), timeout=seconds) as client:
                    answer = client.recv(99).decode()
            except TimeoutError:
                answer = "no answer"
            return answer, served()

    assert in_fresh_network(lambda: ask(port_allowed=True)) == ["metrics", "served"]
    assert device.denied() == {}
    answer, _ = in_fresh_network(lambda: ask(port_allowed=False))
    # The other side may believe that it serves: before Linux 6.6 an IPv6 handshake passes (223f5f79f2ce).
    assert answer == "no answer"
    assert set(device.denied()) == {(Role.WATCHER, Rule.EGRESS)}
    assert device.told() == device.denied()


@pytest.mark.parametrize("role", SEALED)
def test_sealed_roles_receive_nothing(make_device: MakeDevice, role: Role) -> None:
    """A socket of such a role (here: made while only observing) gets no packet, and sends none."""
    device = make_device(enforce=False)

    def scene() -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.bind((V4, 0))

            def exchange() -> Any:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
                    inside.bind((V4, 0))
                    observed = talk(inside, outside)
                    make_device(enforce=True)
                    return observed, talk(inside, outside)

            return device.run(role, exchange)

    assert in_fresh_network(scene) == [[True, True], [False, False]]


def talk(inside: socket.socket, outside: socket.socket) -> tuple[bool, bool]:
    """Whether a datagram gets out, and whether one gets in. Both ends are held by one process here: which
    role a packet belongs to follows from where its socket was made."""
    out_works = in_works = True
    inside.setblocking(False)
    outside.setblocking(False)
    try:
        inside.sendto(b"out", outside.getsockname())
        out_works = outside.recv(9) == b"out"
    except (PermissionError, BlockingIOError):
        out_works = False
    outside.sendto(b"in", inside.getsockname())
    try:
        in_works = inside.recv(9) == b"in"
    except BlockingIOError:
        in_works = False
    return out_works, in_works


def test_observe_counts_and_allows(make_device: MakeDevice) -> None:
    """With enforce off, everything works and every denial is counted and told."""
    device = make_device(enforce=False)

    def scene() -> Any:
        with listener(V4) as server:
            port = server.getsockname()[1]
            return device.run(Role.TRAINER, lambda: refusals(lambda: connect(V4, port)))

    assert in_fresh_network(scene) == 0
    denied = device.denied()
    assert denied[Role.TRAINER, Rule.SOCK_CREATE] == denied[Role.TRAINER, Rule.CONNECT4] == SHOTS
    assert denied[Role.TRAINER, Rule.EGRESS] >= 3 * SHOTS  # SYN, ACK, FIN at least
    assert denied == device.told()
    sent = [cell for key, cell in device.traffic().items() if key.direction is Direction.TRANSMIT]
    assert sum(cell.packets for cell in sent) == denied[Role.TRAINER, Rule.EGRESS]
    assert {key.verdict for key in device.traffic()} == {Verdict.DENIED}


@pytest.mark.parametrize("role", SEALED)
def test_no_entry_lets_a_sealed_role_out(device: Device, role: Role) -> None:
    """Not even a map that says otherwise: the programs do not ask it for these roles."""
    with pytest.raises(InternalError, match="must not be allowed"):
        device.probes.allow(role, V4, 80)
    bpf.update(device.probes.map_fd("allow"), probes._endpoint(role, V4, 80, TCP, 0), bytes(8))
    refused = device.run(role, lambda: refusals(lambda: make_socket(*SOCKETS["tcp4"])))
    assert (refused, device.denied()) == (SHOTS, {(role, Rule.SOCK_CREATE): SHOTS})
