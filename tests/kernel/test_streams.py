# SPDX-License-Identifier: Apache-2.0
"""Every byte of a stream counts once: sent again, past the wrap of its numbers, in a SYN, reconnected."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Direction, Family, Role
from kernel.capture import (
    PAYLOAD,
    SHOTS,
    V4,
    V6,
    Capture,
    cell,
    cut_into_segments,
    family_of,
)
from kernel.rig import Device, child, in_fresh_network

pytestmark = pytest.mark.root

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_RECV_QUEUE, TCP_SEND_QUEUE = 19, 20, 21, 1, 2
TCP_REPAIR_OFF_NO_WP, TCP_REPAIR_OPTIONS, TCPOPT_MSS, TCPOPT_WINDOW = -1, 22, 2, 3


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


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("start", [2**32 - 1, 2**32 - 5_000, 2**31 - 5_000])
def test_sequence_numbers_wrap(device: Device, start: int, lossy: bool) -> None:
    """Past 2**32 and past the change of sign, also when what is sent again lies before and the end behind."""
    go, ready = os.pipe()

    def scene() -> Any:
        device.probes.allow(Role.GATEWAY, V4, 2002)

        def gateway() -> int:
            with repaired(2001, 2002, start, 77) as client:
                client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
                os.read(go, 1)
                client.sendall(bytes(PAYLOAD))
                client.shutdown(socket.SHUT_WR)
                return len(client.recv(1))

        server = repaired(2002, 2001, 77, start)
        server.settimeout(5)
        # Without the window probe that leaving repair sends: there is no peer yet, and it would be reset.
        server.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
        with child(gateway, device.of(Role.GATEWAY)) as result:
            time.sleep(0.2)  # the gateway has asked for the window and been answered
            if lossy:
                drop_all(server)
            os.write(ready, b"!")
            if lossy:
                time.sleep(0.7)
                server.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            received = 0
            while chunk := server.recv(1 << 16):
                received += len(chunk)
            server.shutdown(socket.SHUT_WR)
            assert result() == 0
        return received

    assert in_fresh_network(scene) == PAYLOAD
    counted = cell(device, Family.IPV4)
    assert counted.stream_bytes == PAYLOAD
    if lossy:
        assert counted.bytes > PAYLOAD + counted.packets * 40 + 1000, "nothing was sent again"


def test_fast_open_and_reconnect(device: Device) -> None:
    """Data in the SYN counts once; a socket that is connected again may start from a lower number."""

    def scene() -> Any:
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")  # 0x607: both sides, no cookie wanted
        with socket.create_server((V4, 0)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
            port = server.getsockname()[1]
            device.probes.allow(Role.GATEWAY, V4, port)

            def gateway() -> int:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                    for shot in range(SHOTS):
                        start_at(client, 2**31 - 1_000_003 * shot)
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


def start_at(client: socket.socket, sequence: int) -> None:
    """Choose the first sequence number of the next connection (left to itself, the kernel counts upwards)."""
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    client.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("I", sequence))
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)


def disconnect(client: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which Python does not offer."""
    address = ctypes.create_string_buffer(struct.pack("H14x", socket.AF_UNSPEC))
    assert ctypes.CDLL(None).connect(client.fileno(), address, 16) == 0
