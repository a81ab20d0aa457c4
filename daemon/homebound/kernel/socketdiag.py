# SPDX-License-Identifier: Apache-2.0
"""The IP sockets of one cgroup, by the kernel's own list: family, state, and the other end.

The kernel sorts out the cgroup's sockets itself (Linux 5.9), so a host with many costs no more. Sockets in
TIME_WAIT have left their cgroup and are not in it. Needs no right. Imports nothing of ours.
Source: sock_diag(7), linux/inet_diag.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
REQUEST, DUMP = 0x1, 0x300
DONE, ERROR = 3, 2
BYTECODE, CGROUP_CONDITION = 1, 13
EVERY_STATE = 0xFFFFFFFF
# struct nlmsghdr; struct inet_diag_req_v2 without its id; struct inet_diag_sockid; struct inet_diag_msg.
HEADER, WANTED, ENDS, FOUND = "=IHHII", "=BBBBI", "!HH16s16s", "=BBBB48s"
HEADER_BYTES, ENDS_BYTES = 16, 48
V4_MAPPED = bytes(10) + b"\xff\xff"
# enum in net/tcp_states.h
STATES = {
    1: "established", 2: "syn-sent", 3: "syn-received", 4: "fin-wait-1", 5: "fin-wait-2", 6: "time-wait",
    7: "closed", 8: "close-wait", 9: "last-ack", 10: "listen", 11: "closing", 12: "syn-received", 13: "bound",
}  # fmt: skip
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


@dataclass(frozen=True)
class Found:
    """One socket. ``address`` and ``port`` are the other end's; of an unconnected one they are zero."""

    protocol: str
    state: str
    address: str
    port: int
    local_port: int


def sockets(cgroup: int) -> list[Found]:
    """TCP and UDP sockets, both families, that were made in the cgroup of that id. Raises OSError."""
    found: list[Found] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        for protocol in PROTOCOLS:
            for family in (socket.AF_INET, socket.AF_INET6):
                netlink.sendto(_question(family, protocol, cgroup), (0, 0))
                found += _answer(netlink, PROTOCOLS[protocol])
    return found


def _question(family: int, protocol: int, cgroup: int) -> bytes:
    # One condition: where it holds, on to the end (12 bytes); else beyond it, which means no.
    condition = struct.pack("=BBHQ", CGROUP_CONDITION, 12, 16, cgroup)
    attribute = struct.pack("=HH", 4 + len(condition), BYTECODE) + condition
    body = struct.pack(WANTED, family, protocol, 0, 0, EVERY_STATE) + bytes(ENDS_BYTES) + attribute
    return struct.pack(HEADER, HEADER_BYTES + len(body), SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, 1, 0) + body


def _answer(netlink: socket.socket, protocol: str) -> Iterator[Found]:
    while True:
        datagram = netlink.recv(1 << 16)
        at = 0
        while at + HEADER_BYTES <= len(datagram):
            length, kind = struct.unpack_from("=IH", datagram, at)
            if kind == DONE:
                return
            if kind == ERROR:
                (code,) = struct.unpack_from("=i", datagram, at + HEADER_BYTES)
                raise OSError(-code, "sock_diag(7)")
            yield _socket(datagram[at + HEADER_BYTES : at + length], protocol)
            at += (length + 3) & ~3


def _socket(message: bytes, protocol: str) -> Found:
    family, state, _, _, ends = struct.unpack_from(FOUND, message)
    local_port, port, _, remote = struct.unpack_from(ENDS, ends)
    if family == socket.AF_INET:
        address = socket.inet_ntop(socket.AF_INET, remote[:4])
    elif remote.startswith(V4_MAPPED):
        address = socket.inet_ntop(socket.AF_INET, remote[len(V4_MAPPED) :])
    else:
        address = socket.inet_ntop(socket.AF_INET6, remote)
    return Found(protocol, STATES.get(state, "closed"), address, port, local_port)
