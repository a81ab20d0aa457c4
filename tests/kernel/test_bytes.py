# SPDX-License-Identifier: Apache-2.0
"""What is counted is what went: against a packet capture, byte by byte, and against what the sender wrote.

Every way to send over every family and protocol is in test_ways.py.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from homebound.events import Direction, Family, Protocol, Role, Traffic, TrafficKey, Verdict
from kernel.capture import (
    IPPROTO_DSTOPTS,
    MAPPED,
    PAYLOAD,
    SHOTS,
    UDP,
    V4,
    V6,
    Capture,
    Send,
    by_write,
    cell,
    cut_into_segments,
    family_of,
    nothing,
    send_all,
)
from kernel.conftest import MakeDevice
from kernel.rig import Device, child, in_fresh_network

pytestmark = pytest.mark.root

IPPROTO_RAW, IPV6_DSTOPTS, UDP_SEGMENT = 255, 59, 103


def in_small_pieces(client: socket.socket, content: bytes) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while content:
        content = content[client.send(content[:1009]) :]


WAYS: dict[str, Send] = {"write": by_write, "pieces": in_small_pieces}


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
@pytest.mark.parametrize("way", WAYS)
def test_stream(device: Device, address: str, way: str) -> None:
    """In large calls and in small ones: payload once, and every byte and packet that a wire would see."""

    def scene() -> Any:
        cut_into_segments()
        return send_all(device, address, WAYS[way], nothing)

    received, sizes = in_fresh_network(scene)
    counted = cell(device, Family.IPV6 if address == V6 else Family.IPV4)
    assert counted.stream_bytes == received == PAYLOAD
    assert (counted.packets, counted.bytes) == (len(sizes), sum(sizes))
    assert max(sizes) <= 1500, "the capture did not see segments"


@pytest.mark.parametrize("address", [V4, V6])
def test_uncut(device: Device, address: str) -> None:
    """With offload, as loopback is: payload is the same; bytes are those of the segments, so never fewer than
    what a capture sees here."""
    received, sizes = in_fresh_network(lambda: send_all(device, address, by_write, nothing))
    counted = cell(device, Family.IPV6 if address == V6 else Family.IPV4)
    assert counted.stream_bytes == received == PAYLOAD
    headers = (counted.packets - len(sizes)) * ((20 if address == V4 else 40) + 32)
    assert counted.bytes == sum(sizes) + headers
    assert max(sizes) > 1500, "offload was off: nothing to test"


def test_receiving(device: Device) -> None:
    """What the gateway receives counts as received, packet by packet, and is no stream of its own."""

    def scene() -> Any:
        cut_into_segments()
        with socket.create_server((V4, 0)) as server:
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, V4, port)
            capture = Capture()

            def gateway() -> int:
                with socket.create_connection((V4, port)) as client:
                    count = 0
                    while chunk := client.recv(1 << 16):
                        count += len(chunk)
                    return count

            with child(gateway, device.of(Role.GATEWAY)) as result:
                peer = server.accept()[0]
                peer.sendall(bytes(PAYLOAD))
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(1) == b""
                peer.close()
                assert result() == PAYLOAD
            return capture.sizes(port, Direction.RECEIVE)

    sizes = in_fresh_network(scene)
    counted = cell(device, Family.IPV4, Direction.RECEIVE)
    # The last acknowledgement may reach a socket that is gone already.
    assert sum(sizes) - 60 <= counted.bytes <= sum(sizes)
    assert counted.stream_bytes == cell(device, Family.IPV4).stream_bytes == 0


def test_extension_headers(device: Device) -> None:
    """An IPv6 destination option before TCP: allowed, and counted to the byte all the same."""
    option = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # next header (filled in), length 0, PadN of 4

    def scene() -> Any:
        cut_into_segments()
        return send_all(
            device, V6, by_write, lambda client: client.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, option)
        )

    received, sizes = in_fresh_network(scene)
    counted = cell(device, Family.IPV6)
    assert counted.stream_bytes == received == PAYLOAD
    assert (counted.packets, counted.bytes) == (len(sizes), sum(sizes))


def crafted6(headers: int) -> bytes:
    """An IPv6 UDP packet to ::1 port 9 behind that many destination option headers."""
    option = bytes([IPPROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0])
    last = bytes([UDP]) + option[1:]
    body = option * (headers - 1) + (last if headers else b"") + struct.pack("!HHHH", 9, 9, 8, 0)
    first = IPPROTO_DSTOPTS if headers else UDP
    return struct.pack("!IHBB", 6 << 28, len(body), first, 64) + bytes(15) + b"\1" + bytes(15) + b"\1" + body


def crafted4(fragment: int) -> bytes:
    """An IPv4 UDP packet to 127.0.0.1 port 9 with that fragment field."""
    body = struct.pack("!HHHH", 9, 9, 8, 0)
    local = socket.inet_aton(V4)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 64, UDP, 0) + local + local + body


@pytest.mark.parametrize(
    ("packet", "family", "protocol"),
    [
        (crafted6(0), Family.IPV6, Protocol.UDP),
        (crafted6(1), Family.IPV6, Protocol.UDP),
        (crafted6(6), Family.IPV6, Protocol.UDP),
        (crafted6(7), Family.IPV6, Protocol.OTHER),
        (crafted4(0x4000), Family.IPV4, Protocol.UDP),  # "do not fragment" is no fragment
        (crafted4(0x2000), Family.IPV4, Protocol.OTHER),
        (crafted4(0x0010), Family.IPV4, Protocol.OTHER),
    ],
)
def test_packets_by_hand(make_device: MakeDevice, packet: bytes, family: Family, protocol: Protocol) -> None:
    """Raw packets, let out in observe mode: known as what they are, or as something other; never allowed."""
    device = make_device(enforce=False)

    def shoot() -> None:
        kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        with socket.socket(kind, socket.SOCK_RAW, IPPROTO_RAW) as raw:
            for _ in range(SHOTS):
                raw.sendto(packet, (V4 if family is Family.IPV4 else V6, 0))

    in_fresh_network(lambda: device.run(Role.GATEWAY, shoot))
    sent = {key: value for key, value in device.traffic().items() if key.direction is Direction.TRANSMIT}
    key = TrafficKey(Role.GATEWAY, Direction.TRANSMIT, family, protocol, Verdict.DENIED)
    assert sent == {key: Traffic(SHOTS, SHOTS * len(packet), 0)}
    assert len([event for event in device.events() if event.program.label == "egress"]) == SHOTS


@pytest.mark.parametrize("address", [V4, V6])
def test_datagram_segments(device: Device, address: str) -> None:
    """UDP_SEGMENT: one call, many datagrams; each counts with its headers. A failed send counts nothing."""

    def scene() -> Any:
        cut_into_segments()
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
            server.bind((address, 0))
            port = server.getsockname()[1]
            device.probes.allow(Role.SUPERVISOR, address, port, UDP)

            def shoot() -> bool:
                with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
                    client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1009)
                    client.sendto(bytes(SHOTS * 1009 - 9), (address, port))
                    client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
                    try:
                        client.sendto(bytes(70_000), (address, port))
                    except OSError:
                        return True
                    return False

            return device.run(Role.SUPERVISOR, shoot)

    assert in_fresh_network(scene) is True
    header = 28 if address == V4 else 48
    family = Family.IPV4 if address == V4 else Family.IPV6
    key = TrafficKey(Role.SUPERVISOR, Direction.TRANSMIT, family, Protocol.UDP, Verdict.ALLOWED)
    assert device.traffic()[key] == Traffic(SHOTS, SHOTS * (header + 1009) - 9, 0)
