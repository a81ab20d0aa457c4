# SPDX-License-Identifier: Apache-2.0
"""Every way to send, over TCP and UDP, IPv4, IPv6 and v4-mapped, in large packets and in single ones.

What the programs count is what a capture on the sending device shows, to the byte, and the payload is what
the sender wrote and the receiver got. Whether packets were large where they should be is seen by how often
the program ran: once for each packet that it was shown.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from homebound.events import Direction, Family, Protocol, Role, Traffic, TrafficKey, Verdict
from kernel import wire
from kernel.capture import SO_RCVBUFFORCE, UDP, Capture
from kernel.rig import Device, child, in_child
from kernel.ways import WAYS, Way

pytestmark = pytest.mark.root

PIECES, STREAM_PIECE, DATAGRAM = 5, 40_009, 1009
IN_A_BATCH, UDP_SEGMENT = 17, 103
PATIENCE = 10
ADDRESSES = {"ipv4": wire.FAR4, "ipv6": wire.FAR6, "mapped": wire.FAR_MAPPED}
Seen = tuple[Mapping[str, Any], Mapping[str, Any]]


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def bare(address: str) -> str:
    """As the far end writes it, which knows IPv4 only as IPv4."""
    return address.removeprefix("::ffff:")


def cell(device: Device, role: Role, address: str, protocol: Protocol) -> Traffic:
    """What the role may send counts to; nothing was denied, and nothing else sent."""
    family = Family.IPV6 if address == wire.FAR6 else Family.IPV4
    key = TrafficKey(role, Direction.TRANSMIT, family, protocol, Verdict.ALLOWED)
    sent = {k: v for k, v in device.traffic().items() if k.direction is Direction.TRANSMIT}
    assert device.denied() == {}
    assert set(sent) <= {key}
    return sent.get(key, Traffic(0, 0, 0))


def runs(device: Device) -> int:
    return next(state.runs for state in device.probes.programs() if state.name == "hb_egress")


def stream(device: Device, address: str, far: wire.Wire, way: Way) -> tuple[int, Capture, int]:
    """The gateway sends by TCP: bytes received, capture, port."""
    with far.beyond():
        server = socket.create_server((bare(address), 0), family=family_of(bare(address)))
    port = server.getsockname()[1]
    device.probes.allow(Role.GATEWAY, address, port)
    capture = wire.capture()

    def gateway() -> int:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as client:
            client.connect((address, port))
            way(client, [os.urandom(STREAM_PIECE) for _ in range(PIECES)])
            client.shutdown(socket.SHUT_WR)
            return len(client.recv(1))  # the server read all and closed

    with server, child(gateway, device.of(Role.GATEWAY)) as result:
        peer, received = server.accept()[0], 0
        while chunk := peer.recv(1 << 16):
            received += len(chunk)
        peer.close()
        assert result() == 0
    return received, capture, port


def datagrams(device: Device, address: str, far: wire.Wire, way: Way, batch: int) -> tuple[int, Capture, int]:
    """The supervisor, who alone may, sends by UDP, ``batch`` datagrams at a time."""
    with far.beyond():
        server = socket.socket(family_of(bare(address)), socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    server.bind((bare(address), 0))
    server.settimeout(PATIENCE)
    port = server.getsockname()[1]
    device.probes.allow(Role.SUPERVISOR, address, port, UDP)
    capture = wire.capture()

    def supervisor() -> None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
            client.connect((address, port))
            if batch > 1:
                client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, DATAGRAM)
            way(client, [os.urandom(DATAGRAM * batch) for _ in range(PIECES)])

    device.run(Role.SUPERVISOR, supervisor)
    received = 0
    with server:
        while received < PIECES * DATAGRAM * batch:
            received += len(server.recv(1 << 16))
    return received, capture, port


def compare(device: Device, protocol: Protocol, address: str, large: bool) -> Seen:
    """By way: what was counted, and what must have been. Runs in a child, in the near namespace."""
    far = wire.stretch(cut=not large)
    is_stream = protocol is Protocol.TCP
    role = Role.GATEWAY if is_stream else Role.SUPERVISOR
    batch = IN_A_BATCH if large else 1
    payload = PIECES * (STREAM_PIECE if is_stream else DATAGRAM * batch)
    header = (40 if address == wire.FAR6 else 20) + 8
    counted, wanted = {}, {}
    for name, way in WAYS.items():
        before, ran = cell(device, role, address, protocol), runs(device)
        if is_stream:
            received, capture, port = stream(device, address, far, way)
        else:
            received, capture, port = datagrams(device, address, far, way, batch)
        sizes, after = capture.sizes(port, Direction.TRANSMIT), cell(device, role, address, protocol)
        packets, size = after.packets - before.packets, after.bytes - before.bytes
        fresh = after.stream_bytes - before.stream_bytes if is_stream else size - packets * header
        counted[name] = [packets, size, fresh, received]
        wanted[name] = [len(sizes), sum(sizes), payload, payload]
        assert max(sizes) <= wire.MTU, "the capture did not see segments"
        shown = runs(device) - ran
        assert shown < packets if large else shown == packets, f"{name}: {shown} runs, {packets} packets"
    return counted, wanted


@pytest.mark.parametrize("large", [True, False], ids=["gso", "single"])
@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=["tcp", "udp"])
def test_every_way(device: Device, protocol: Protocol, address: str, large: bool) -> None:
    counted, wanted = in_child(lambda: compare(device, protocol, ADDRESSES[address], large))
    assert set(counted) == set(WAYS)
    assert counted == wanted
