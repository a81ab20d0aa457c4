# SPDX-License-Identifier: Apache-2.0
"""A packet capture on a device, and a gateway that sends a known number of bytes past it.

Loopback hands on GSO packets uncut, so its offload can be switched off: then the capture sees the segments
as a wire would, while the programs see one large packet.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from homebound.events import Direction, Family, Protocol, Role, Traffic, TrafficKey, Verdict
from kernel.rig import Device, child

SHOTS = 23
PAYLOAD = 1_000_003
V4, V6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"
UDP, IPPROTO_DSTOPTS = 17, 60
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING, ETH_P_ALL = 263, 6, 4, 3
MSG_TRUNC = 0x20
SIOCETHTOOL, SIOCSIFMTU, ETHTOOL_STSO, ETHTOOL_SGSO = 0x8946, 0x8922, 0x1F, 0x24

Send = Callable[[socket.socket, bytes], None]
# Longer than an acknowledgement may wait (40 ms).
QUIET_SECONDS = 0.1


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def cut_into_segments(mtu: int = 1500) -> None:
    """Make loopback behave like a network card without offload."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for command in (ETHTOOL_STSO, ETHTOOL_SGSO):
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            fcntl.ioctl(probe, SIOCETHTOOL, struct.pack("16sQ16x", b"lo", ctypes.addressof(value)))
        fcntl.ioctl(probe, SIOCSIFMTU, struct.pack("16si20x", b"lo", mtu))


class Capture:
    """Every IP packet that leaves through a device. Lengths are those of the IP packet."""

    def __init__(self, device: str = "lo") -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        self.socket.bind((device, ETH_P_ALL))
        self.socket.settimeout(QUIET_SECONDS)

    def packets(self) -> list[tuple[bytes, int]]:
        """(first bytes, length) until nothing more comes for QUIET_SECONDS. Fails if any was dropped."""
        found = []
        try:
            while True:
                buffer = bytearray(128)
                length, _, _, sender = self.socket.recvmsg_into([buffer], 0, MSG_TRUNC)
                if sender[2] == PACKET_OUTGOING:
                    found.append((bytes(buffer), length))
        except TimeoutError:
            pass
        dropped = struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        assert dropped == 0, "the capture itself lost packets"
        return found

    def sizes(self, port: int, direction: Direction) -> list[int]:
        """Lengths of the packets to (TRANSMIT) or from (RECEIVE) a port."""
        offset = 2 if direction is Direction.TRANSMIT else 0
        sizes = []
        for head, length in self.packets():
            transport = 40 if head[0] >> 4 == 6 else (head[0] & 15) * 4
            if head[0] >> 4 == 6 and head[6] == IPPROTO_DSTOPTS:
                transport += (head[41] + 1) * 8
            if struct.unpack_from("!H", head, transport + offset)[0] == port:
                sizes.append(length)
        return sizes


def cell(device: Device, family: Family, direction: Direction = Direction.TRANSMIT) -> Traffic:
    """What the gateway's allowed TCP traffic counts to; nothing else may have been counted."""
    key = TrafficKey(Role.GATEWAY, direction, family, Protocol.TCP, Verdict.ALLOWED)
    traffic = device.traffic()
    assert {other.verdict for other in traffic} == {Verdict.ALLOWED}
    assert device.denied() == {}
    return traffic[key]


def send_all(device: Device, address: str, send: Send, prepare: Callable[[socket.socket], None]) -> Any:
    """A gateway sends PAYLOAD bytes to a server outside of the device, in this network namespace.

    Returns [port, bytes that the server got, sizes that the capture saw]."""
    content = os.urandom(PAYLOAD)
    with socket.create_server(
        ("::" if address == MAPPED else address, 0),
        family=family_of(address),
        dualstack_ipv6=address == MAPPED,
    ) as server:
        port = server.getsockname()[1]
        device.probes.allow(Role.GATEWAY, address, port)
        capture = Capture()

        def gateway() -> int:
            with socket.socket(family_of(address), socket.SOCK_STREAM) as client:
                prepare(client)
                client.connect((address, port))
                send(client, content)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""  # the server read all and closed
                return len(content)

        with child(gateway, device.of(Role.GATEWAY)) as result:
            peer = server.accept()[0]
            received = b""
            while chunk := peer.recv(1 << 16):
                received += chunk
            assert received == content
            peer.close()
            assert result() == PAYLOAD
        return len(received), capture.sizes(port, Direction.TRANSMIT)


def nothing(_: socket.socket) -> None:
    """No preparation."""


def by_write(client: socket.socket, content: bytes) -> None:
    while content:
        content = content[os.write(client.fileno(), content) :]
