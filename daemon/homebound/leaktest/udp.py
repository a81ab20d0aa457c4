# SPDX-License-Identifier: Apache-2.0
"""UDP to a loopback receiver: unconnected and connected, IPv4 and IPv6.

An unconnected send never passes connect(2), so a wall at connect alone lets it through.
``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 3
NAME = "udp"
RULES = ("socket_datagram", "sock_create", "connect4", "sendmsg4", "connect6", "sendmsg6", "egress")
WALLS = ("seccomp", "namespaces", "cgroup-bpf")
DELIVERS = True

# How long to wait for the ICMP error that tells a sender that nobody listens (RFC 1122, 4.1.3.3).
REFUSAL_SECONDS = 0.05
IP_RECVERR = 11  # linux/in.h, linux/in6.h; Python names neither
IPV6_RECVERR = 25


def attempt(target: Target) -> Attempt:
    """Send the token unconnected, then connected, once for each address family."""
    place = target.place(NAME)
    data = target.token.encode()
    ways = {
        "IPv4 unconnected": lambda: send_unconnected(socket.AF_INET, ("127.0.0.1", place["port4"]), data),
        "IPv4 connected": lambda: send_connected(socket.AF_INET, ("127.0.0.1", place["port4"]), data),
    }
    if place["port6"]:
        six = ("::1", place["port6"])
        ways["IPv6 unconnected"] = lambda: send_unconnected(socket.AF_INET6, six, data)
        ways["IPv6 connected"] = lambda: send_connected(socket.AF_INET6, six, data)
    return try_each(ways)


def send_unconnected(family: int, address: tuple[str, int], data: bytes) -> None:
    """Send one datagram by sendto(2); OSError when refused or when nobody listens there."""
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        # An unconnected socket hears of ICMP errors only with IP_RECVERR (ip(7), ipv6(7)); for a mapped
        # address the IPv4 option of the IPv6 socket counts.
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        made.sendto(data, address)
        expect_no_refusal(made)


def send_connected(family: int, address: tuple[str, int], data: bytes) -> None:
    """Send one datagram after connect(2); OSError when refused or when nobody listens there."""
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.connect(address)
        made.send(data)
        expect_no_refusal(made)


def expect_no_refusal(made: socket.socket) -> None:
    """Raise the OSError that an ICMP error left on the socket; silence is taken as sent."""
    made.settimeout(REFUSAL_SECONDS)
    try:
        made.recv(1)
    except TimeoutError:
        return


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on a free port of 127.0.0.1 and, where the kernel has IPv6, of ::1."""
    four = bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1")
    six = bound(socket.AF_INET6, socket.SOCK_DGRAM, "::1")
    place = {"port4": port_of(four), "port6": port_of(six)}
    with listening(place, readers=[made for made in (four, six) if made]) as made:
        yield made
