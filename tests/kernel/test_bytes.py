# SPDX-License-Identifier: Apache-2.0
"""What is counted is what went: against a packet capture, byte by byte, and against what the sender wrote.

Loopback hands on GSO packets uncut, so its offload is switched off: then the capture sees the segments as a
wire would, while the program sees one large packet.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Direction, Family, Protocol, Role, Traffic, TrafficKey, Verdict
from kernel.conftest import MakeDevice
from kernel.rig import Device, child, in_fresh_network

pytestmark = pytest.mark.root

SHOTS = 23
PAYLOAD = 1_000_003
V4, V6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"
TCP, UDP = 6, 17
SO_RCVBUFFORCE, SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ZEROCOPY = 33, 26, 27, 60
SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING, ETH_P_ALL = 263, 6, 4, 3
MSG_ZEROCOPY, MSG_TRUNC = 0x4000000, 0x20
SIOCETHTOOL, SIOCSIFMTU, ETHTOOL_STSO, ETHTOOL_SGSO = 0x8946, 0x8922, 0x1F, 0x24
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_RECV_QUEUE, TCP_SEND_QUEUE = 19, 20, 21, 1, 2
TCP_REPAIR_OFF_NO_WP, TCP_REPAIR_OPTIONS, TCPOPT_MSS, TCPOPT_WINDOW = -1, 22, 2, 3
IPPROTO_DSTOPTS, IPPROTO_RAW, IPV6_DSTOPTS = 60, 255, 59
UDP_SEGMENT = 103

Send = Callable[[socket.socket, bytes], None]


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
    """Every IP packet that leaves through loopback. Lengths are those of the IP packet."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        self.socket.bind(("lo", ETH_P_ALL))
        self.socket.settimeout(0.2)

    def packets(self) -> list[tuple[bytes, int]]:
        """(first bytes, length) until nothing more comes for 0.2 s. Fails if any was dropped."""
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


def by_writev(client: socket.socket, content: bytes) -> None:
    while content:
        content = content[os.writev(client.fileno(), [content[:777], content[777:5000]]) :]


def by_sendmsg(client: socket.socket, content: bytes) -> None:
    while content:
        content = content[client.sendmsg([content[:4099], content[4099:70001]]) :]


def by_sendfile(client: socket.socket, content: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        client.sendfile(file)


def by_splice(client: socket.socket, content: bytes) -> None:
    reading, writing = os.pipe()
    while content:
        moved = os.write(writing, content[:50_000])
        content = content[moved:]
        while moved:
            moved -= os.splice(reading, client.fileno(), moved)


def by_zerocopy(client: socket.socket, content: bytes) -> None:
    client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    rest = memoryview(content)  # the kernel reads it later, so no copy may be made and freed
    while rest:
        rest = rest[client.send(rest[:100_000], MSG_ZEROCOPY) :]


def in_small_pieces(client: socket.socket, content: bytes) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while content:
        content = content[client.send(content[:1009]) :]


WAYS: dict[str, Send] = {
    "write": by_write,
    "writev": by_writev,
    "sendmsg": by_sendmsg,
    "sendfile": by_sendfile,
    "splice": by_splice,
    "zerocopy": by_zerocopy,
    "pieces": in_small_pieces,
}


@pytest.mark.parametrize("address", [V4, V6, MAPPED])
@pytest.mark.parametrize("way", WAYS)
def test_stream(device: Device, address: str, way: str) -> None:
    """However it is sent: payload once, and every byte and packet that a wire would see."""

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


def drop_all(peer: socket.socket) -> None:
    """A classic BPF filter that returns 0: the receiver's kernel drops every packet of this socket."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))


@pytest.mark.parametrize("address", [V4, V6])
def test_retransmissions(device: Device, address: str) -> None:
    """What is sent again counts again on the wire, and not again as payload."""
    content = os.urandom(23 * 1009)

    def scene() -> Any:
        cut_into_segments()
        with socket.create_server((address, 0), family=family_of(address)) as server:
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, address, port)
            capture = Capture()

            def gateway() -> str:
                with socket.create_connection((address, port)) as client:
                    assert client.recv(1) == b"!"
                    client.sendall(content)
                    client.shutdown(socket.SHUT_WR)
                    return client.recv(1).decode()

            with child(gateway, device.of(Role.GATEWAY)) as result:
                peer = server.accept()[0]
                drop_all(peer)
                peer.send(b"!")
                time.sleep(1.0)  # several retransmission timeouts (200 ms and doubling)
                peer.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
                received = b""
                while chunk := peer.recv(1 << 16):
                    received += chunk
                peer.close()
                assert (received, result()) == (content, "")
            return capture.sizes(port, Direction.TRANSMIT)

    sizes = in_fresh_network(scene)
    counted = cell(device, Family.IPV4 if address == V4 else Family.IPV6)
    assert counted.stream_bytes == len(content)
    assert (counted.packets, counted.bytes) == (len(sizes), sum(sizes))
    payload = counted.bytes - counted.packets * ((20 if address == V4 else 40) + 32)
    assert payload > len(content) + 2 * 1000, "nothing was sent again: the test shows nothing"


def repaired(port: int, peer_port: int, send: int, receive: int) -> socket.socket:
    """A TCP socket that stands without a handshake, with sequence numbers of our choice (TCP_REPAIR)."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    for queue, sequence in ((TCP_SEND_QUEUE, send), (TCP_RECV_QUEUE, receive)):
        made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        made.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("I", sequence))
    made.bind((V4, port))
    made.connect((V4, peer_port))
    # What a handshake would have agreed on: segment size, and window scale both ways.
    for option, value in ((TCPOPT_MSS, 1460), (TCPOPT_WINDOW, 10 | 10 << 16)):
        made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, struct.pack("II", option, value))
    return made


@pytest.mark.parametrize("start", [2**32 - 1, 2**32 - 500_000, 2**31 - 500_000])
def test_sequence_numbers_wrap(device: Device, start: int) -> None:
    """Past 2**32 and past the change of sign."""

    def scene() -> Any:
        device.probes.allow(Role.GATEWAY, V4, 2002)

        def gateway() -> int:
            with repaired(2001, 2002, start, 77) as client:
                client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
                client.sendall(bytes(PAYLOAD))
                client.shutdown(socket.SHUT_WR)
                return len(client.recv(1))

        server = repaired(2002, 2001, 77, start)
        server.settimeout(5)
        # Without the window probe that leaving repair sends: there is no peer yet, and it would be reset.
        server.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
        with child(gateway, device.of(Role.GATEWAY)) as result:
            received = 0
            while chunk := server.recv(1 << 16):
                received += len(chunk)
            server.shutdown(socket.SHUT_WR)
            assert result() == 0
        return received

    assert in_fresh_network(scene) == PAYLOAD
    assert cell(device, Family.IPV4).stream_bytes == PAYLOAD


def test_fast_open_and_reconnect(device: Device) -> None:
    """Data in the SYN counts once; a socket that is connected again starts from another number."""

    def scene() -> Any:
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")  # 0x607: both sides, no cookie wanted
        with socket.create_server((V4, 0)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, V4, port)

            def gateway() -> int:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                    for _ in range(SHOTS):
                        client.sendto(b"early bird", socket.MSG_FASTOPEN, (V4, port))
                        client.sendall(b"and late")
                        assert client.recv(3) == b"ok."
                        disconnect(client)
                return 0

            with child(gateway, device.of(Role.GATEWAY)) as result:
                for _ in range(SHOTS):
                    with server.accept()[0] as peer:
                        received = b""
                        while len(received) < 18:
                            received += peer.recv(99)
                        peer.sendall(b"ok.")
                assert result() == 0
            counters = Path("/proc/net/netstat").read_text().splitlines()
            names, values = (line.split() for line in counters[:2])
            return int(values[names.index("TCPFastOpenActive")])

    assert in_fresh_network(scene) == SHOTS, "no data went in a SYN: the test shows nothing"
    assert cell(device, Family.IPV4).stream_bytes == SHOTS * len(b"early birdand late")


def disconnect(client: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which Python does not offer."""
    address = ctypes.create_string_buffer(struct.pack("H14x", socket.AF_UNSPEC))
    assert ctypes.CDLL(None).connect(client.fileno(), address, 16) == 0


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
