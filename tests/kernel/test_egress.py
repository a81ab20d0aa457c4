# SPDX-License-Identifier: Apache-2.0
"""Who may make an IP socket, connect it, send by it: 23 attempts are refused, counted and told 23 times.

Each refusal has its positive control: the same attempt outside of the device, or by the allowed way, works.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from homebound.events import Direction, Family, Protocol, Role, Rule, TrafficKey, Verdict
from kernel.rig import Device, in_child, in_fresh_network

pytestmark = pytest.mark.root

SHOTS = 23
TCP, UDP, ICMP, ICMPV6, UDPLITE, MPTCP = 6, 17, 1, 58, 136, 262
V4, V6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"
SEALED = (Role.TRAINER, Role.GUARD, Role.CANARY, Role.NONE)
NETWORKED = (Role.SUPERVISOR, Role.WATCHER, Role.GATEWAY)
# Long enough for a loaded machine where an answer comes; short where none can come.
PATIENCE, ATTEMPT_SECONDS = 10, 0.4


def refusals(attempt: Callable[[], object], code: int = errno.EPERM) -> int:
    """How many of 23 attempts fail with ``code``. Another error is raised, a success is not counted."""
    count = 0
    for _ in range(SHOTS):
        try:
            attempt()
        except OSError as error:
            if error.errno != code:
                raise
            count += 1
    return count


def make_socket(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(address: str, port: int) -> None:
    with socket.socket(family_of(address), socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect((address, port))


def listener(address: str) -> socket.socket:
    """A TCP server; MAPPED listens where IPv4 and IPv6 both arrive."""
    return socket.create_server(
        ("::" if address == MAPPED else address, 0),
        family=family_of(address),
        dualstack_ipv6=address == MAPPED,
        backlog=SHOTS,
    )


SOCKETS = {
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "raw4": (socket.AF_INET, socket.SOCK_RAW, ICMP),
    "raw6": (socket.AF_INET6, socket.SOCK_RAW, ICMPV6),
    "udplite4": (socket.AF_INET, socket.SOCK_DGRAM, UDPLITE),
    "mptcp4": (socket.AF_INET, socket.SOCK_STREAM, MPTCP),
    "mptcp6": (socket.AF_INET6, socket.SOCK_STREAM, MPTCP),
}
MAY_MAKE = {
    Role.SUPERVISOR: {"tcp4", "tcp6", "udp4", "udp6"},
    Role.WATCHER: {"tcp4", "tcp6"},
    Role.GATEWAY: {"tcp4", "tcp6"},
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", SOCKETS)
def test_sockets(device: Device, role: Role, kind: str) -> None:
    """Made by exactly the roles that may; a refusal is counted once, not again as a failed system call."""
    wanted = SOCKETS[kind]
    try:
        make_socket(*wanted)  # the positive control, outside of the device
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            pytest.skip(f"this kernel has no {kind}")
        raise
    refused = device.run(role, lambda: refusals(lambda: make_socket(*wanted)))
    if kind in MAY_MAKE.get(role, ()):
        assert (refused, device.denied()) == (0, {})
        return
    events = device.events()
    assert refused == SHOTS
    assert device.denied() == {(role, Rule.SOCK_CREATE): SHOTS}
    assert len(events) == SHOTS
    assert {event.role for event in events} == {role}
    assert {event.rule for event in events} == {Rule.SOCK_CREATE}
    assert {event.family for event in events} == {wanted[0]}
    assert {event.detail & 0xFFFFFFFF for event in events} == {wanted[1]}
    assert {event.cgroup for event in events} == {device.of(role).stat().st_ino}
    assert all(event.time_ns > 0 and event.pid == event.tid > 0 for event in events)


def test_root_of_the_device_has_no_role(device: Device) -> None:
    """A task in the root cgroup itself, not yet in a role, has no network either."""
    refused = in_child(lambda: refusals(lambda: make_socket(*SOCKETS["tcp4"])), device.cgroup)
    assert (refused, device.denied()) == (SHOTS, {(Role.NONE, Rule.SOCK_CREATE): SHOTS})


@pytest.mark.parametrize("role", [Role.TRAINER, Role.GATEWAY])
def test_descendants_count_for_their_role(device: Device, role: Role) -> None:
    """A cgroup made below a role's is that role."""
    below = device.of(role) / "a" / "b"
    below.mkdir(parents=True)
    refused = in_child(lambda: refusals(lambda: make_socket(*SOCKETS["udp6"])), below)
    assert (refused, device.denied()) == (SHOTS, {(role, Rule.SOCK_CREATE): SHOTS})


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
@pytest.mark.parametrize("role", NETWORKED)
def test_connect(device: Device, role: Role, address: str) -> None:
    """To the allowed endpoint and to no other port, address or family."""

    def scene() -> Any:
        with listener(address) as allowed, listener(address) as other:
            ports = allowed.getsockname()[1], other.getsockname()[1]
            connect(address, ports[1])  # the positive control, outside of the device
            device.probes.allow(role, address, ports[0])
            refused = device.run(role, lambda: refusals(lambda: connect(address, ports[1])))
            device.run(role, lambda: connect(address, ports[0]))
            return refused, ports[1]

    refused, port = in_fresh_network(scene)
    rule = Rule.CONNECT4 if address == V4 else Rule.CONNECT6
    assert refused == SHOTS
    assert device.denied() == {(role, rule): SHOTS}
    events = device.events()
    assert len(events) == SHOTS
    # v4-mapped and IPv4 are one address, and one key.
    assert {(e.rule, e.address, e.port, e.protocol) for e in events} == {
        (rule, V4 if address == MAPPED else address, port, TCP)
    }


def test_v4_and_v4_mapped_are_one_endpoint(device: Device) -> None:
    """What is allowed in one notation is allowed in the other: same wire."""

    def scene() -> None:
        with listener(MAPPED) as server:
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, V4, port)
            device.run(Role.GATEWAY, lambda: connect(V4, port))
            device.run(Role.GATEWAY, lambda: connect(MAPPED, port))

    in_fresh_network(scene)
    assert device.denied() == {}
    families = {key.family for key in device.traffic()}
    assert families == {Family.IPV4}


@pytest.mark.parametrize("address", [V4, V6])
def test_fast_open(device: Device, address: str) -> None:
    """Data in the SYN passes no connect(2), but the same program."""

    def fast_open(port: int) -> None:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as client:
            client.sendto(b"early", socket.MSG_FASTOPEN, (address, port))

    def scene() -> Any:
        with listener(address) as server:
            port = server.getsockname()[1]
            fast_open(port)
            return device.run(Role.GATEWAY, lambda: refusals(lambda: fast_open(port)))

    assert in_fresh_network(scene) == SHOTS
    rule = Rule.CONNECT4 if address == V4 else Rule.CONNECT6
    assert device.denied() == device.told() == {(Role.GATEWAY, rule): SHOTS}


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
def test_datagrams(device: Device, address: str) -> None:
    """An unconnected UDP socket sends to the allowed endpoint only."""

    def send(port: int) -> None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (address, port))

    def scene() -> Any:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
            server.bind(("::" if address == MAPPED else address, 0))
            port = server.getsockname()[1]
            send(port)
            refused = device.run(Role.SUPERVISOR, lambda: refusals(lambda: send(port)))
            device.probes.allow(Role.SUPERVISOR, address, port, UDP)
            device.run(Role.SUPERVISOR, lambda: send(port))
            server.setblocking(False)
            return refused, [server.recv(9).decode(), server.recv(9).decode()], arrived(server)

    refused, received, more = in_fresh_network(scene)
    # An IPv6 socket that sends to a v4-mapped address takes the IPv4 way (udpv6_sendmsg).
    rule = Rule.SENDMSG6 if address == V6 else Rule.SENDMSG4
    assert (refused, received, more) == (SHOTS, ["x", "x"], 0)
    assert device.denied() == device.told() == {(Role.SUPERVISOR, rule): SHOTS}


def arrived(server: socket.socket) -> int:
    """Datagrams that wait there."""
    count = 0
    try:
        while server.recv(2048):
            count += 1
    except BlockingIOError:
        pass
    return count


@pytest.mark.parametrize("address", [V4, V6])
def test_sorting_addresses_is_no_attempt(device: Device, address: str) -> None:
    """getaddrinfo(3) connects UDP sockets to sort addresses: no denial for the supervisor; sending is one."""

    def scene() -> Any:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
            client.connect((address, 53))
            return refusals(lambda: client.send(b"x"))

    assert in_fresh_network(lambda: device.run(Role.SUPERVISOR, scene)) == SHOTS
    assert device.denied() == device.told() == {(Role.SUPERVISOR, Rule.EGRESS): SHOTS}


@pytest.mark.parametrize("address", [V4, V6])
def test_connected_socket_after_revoke(device: Device, address: str) -> None:
    """The packet is the last word: a socket connected while it was allowed sends nothing any more."""

    def scene() -> Any:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
            server.bind((address, 0))
            server.setblocking(False)
            port = server.getsockname()[1]

            def shoot() -> int:
                with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
                    client.connect((address, port))
                    client.send(b"x")  # the positive control
                    device.probes.revoke(Role.SUPERVISOR, address, port, UDP)
                    return refusals(lambda: client.send(b"0123456789"))

            device.probes.allow(Role.SUPERVISOR, address, port, UDP)
            return device.run(Role.SUPERVISOR, shoot), arrived(server), port

    refused, received, port = in_fresh_network(scene)
    assert (refused, received) == (SHOTS, 1)
    assert device.denied() == {(Role.SUPERVISOR, Rule.EGRESS): SHOTS}
    events = device.events()
    assert {(e.address, e.port, e.protocol, e.family, e.pid) for e in events} == {
        (address, port, UDP, family_of(address), 0)
    }
    header = 28 if address == V4 else 48
    assert [event.detail for event in events] == [header + 10] * SHOTS
    family = Family.IPV4 if address == V4 else Family.IPV6
    cell = device.traffic()[
        TrafficKey(Role.SUPERVISOR, Direction.TRANSMIT, family, Protocol.UDP, Verdict.DENIED)
    ]
    assert (cell.packets, cell.bytes, cell.stream_bytes) == (SHOTS, SHOTS * (header + 10), 0)


def test_task_decides_on_connect_socket_on_packets(device: Device) -> None:
    """A gateway's socket in a trainer's hands: it cannot be connected. One that is connected already can be
    written to (this wall sees sockets, not tasks): that is what the rules on descriptors are for."""

    def scene() -> Any:
        with listener(V4) as server:
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, V4, port)

            def shoot() -> Any:
                loose = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                held = socket.create_connection((V4, port))
                (device.of(Role.TRAINER) / "cgroup.procs").write_text("0")
                refused = refusals(lambda: loose.connect((V4, port)))
                held.send(b"through")
                held.close()
                return refused

            refused = device.run(Role.GATEWAY, shoot)
            with server.accept()[0] as peer:
                return refused, peer.recv(99).decode()

    assert in_fresh_network(scene) == [SHOTS, "through"]
    assert device.denied() == {(Role.TRAINER, Rule.CONNECT4): SHOTS}
