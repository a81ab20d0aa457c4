# SPDX-License-Identifier: Apache-2.0
"""The gateway's credit: to the endpoint that it may reach it sends what was granted and not a byte more."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Credit, Direction, Role, Rule, Verdict
from homebound.guard.credit import CELL, Purse
from homebound.kernel import features, maps, seccomp
from homebound.kernel.probes import Allowance, Probes
from kernel.conftest import OBJECTS, How
from kernel.rig import Device, in_child, in_fresh_network
from sink import LOOPBACK, Sink

pytestmark = pytest.mark.root

LEVEL_BELOW = 1
BURST, GRANT = 300_000, 200_000
SIZE = 1 << 20
# A SYN is 60 bytes on the wire; a packet is all or nothing, so up to one segment of loopback may be left.
SYN, SEGMENT = 60, 65536


def pour(port: int, connections: int = 1, size: int = SIZE, seconds: float = 2.5) -> None:
    """Send all that can be sent, from as many threads as connections."""

    def one() -> None:
        with socket.socket() as client:
            client.settimeout(seconds)
            try:
                client.connect((LOOPBACK, port))
                client.sendall(bytes(size))
                client.shutdown(socket.SHUT_WR)
                client.recv(1)
            except OSError:
                pass  # no credit, no progress

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def make(bpf_file_system: Path, device_cgroup: Path, how: How) -> Iterator[Callable[..., Device]]:
    """A device whose gateway has an allowance."""
    pins = bpf_file_system / device_cgroup.name
    made: list[Device] = []

    def device(rate: int, burst: int, enforce: bool = True) -> Device:
        level = len(device_cgroup.relative_to(features.cgroup2_mounts()[0]).parts) + LEVEL_BELOW
        probes = Probes.load(OBJECTS, device_cgroup, level, enforce, pins, Allowance(rate, burst), **how)
        for role in Role:
            if role is not Role.NONE:
                probes.assign((device_cgroup / role.label).stat().st_ino, role)
        made.append(Device(device_cgroup, pins, probes, maps.EventStream(probes.map_fd("events"))))
        return made[-1]

    yield device
    for one in made:
        one.stream.close()
        one.probes.remove()


def received(device: Device, role: Role = Role.GATEWAY, **words: Any) -> int:
    """What a sink outside of the device gets from a role that sends all it can."""

    def scene() -> int:
        sink = Sink()
        device.probes.allow(role, LOOPBACK, sink.port)
        done = threading.Event()

        def send() -> None:
            in_child(lambda: pour(sink.port, **words), device.of(role))
            done.set()

        sender = threading.Thread(target=send)
        sender.start()
        settled = sink.settle()
        sender.join()
        return max(settled, sink.bytes)

    got: int = in_fresh_network(scene)
    return got


def stream_bytes(device: Device, verdict: Verdict = Verdict.ALLOWED) -> int:
    return sum(
        cell.stream_bytes
        for key, cell in device.traffic().items()
        if (key.role, key.direction, key.verdict) == (Role.GATEWAY, Direction.TRANSMIT, verdict)
    )


@pytest.mark.parametrize("connections", [1, 8])
def test_no_more_than_the_allowance(make: Callable[..., Device], connections: int) -> None:
    """However many sockets on however many processors; what was dropped does not pass when it comes again."""
    device = make(0, BURST)
    got = received(device, connections=connections)
    print(f"{got} of {BURST} bytes with {connections} connections")
    assert BURST - SYN * connections - SEGMENT <= got <= BURST - SYN * connections
    assert stream_bytes(device) == got
    assert device.denied()[Role.GATEWAY, Rule.CREDIT] > 0
    told = [event for event in device.events() if event.rule is Rule.CREDIT]
    assert {(event.role, event.address) for event in told} == {(Role.GATEWAY, LOOPBACK)}
    assert device.probes.credit() == dict.fromkeys(Credit, 0)


def test_without_an_allowance_there_is_no_credit(make: Callable[..., Device], device_cgroup: Path) -> None:
    """The control: the same sender gets everything through."""
    device = make(0, 0)
    assert received(device, connections=2) == 2 * SIZE
    assert device.denied() == {}


def test_a_grant_lets_as_much_pass(make: Callable[..., Device]) -> None:
    device = make(0, BURST)
    device.probes.grant(GRANT)
    got = received(device)
    assert BURST + GRANT - SYN - SEGMENT <= got <= BURST + GRANT - SYN
    assert device.probes.credit() == {Credit.GUARD: 0, Credit.SUPERVISOR: GRANT, Credit.USED: GRANT}


def test_a_grant_wakes_what_was_stopped(make: Callable[..., Device]) -> None:
    """A connection that ran dry goes on by itself."""
    device = make(0, BURST)

    def later() -> None:
        time.sleep(1.0)
        device.probes.grant(4 << 20)

    helper = threading.Thread(target=later)
    helper.start()
    got = received(device, seconds=20.0)
    helper.join()
    assert got == SIZE


def test_what_is_taken_back_cannot_be_used(make: Callable[..., Device]) -> None:
    device = make(0, BURST)
    device.probes.grant(GRANT)
    device.probes.grant(-GRANT)
    assert received(device) <= BURST - SYN
    device.probes.grant(-GRANT)  # below zero: later grants make good for it first
    device.probes.grant(2 * GRANT)
    assert received(device) <= GRANT + SEGMENT


def test_the_allowance_refills_and_is_bounded(make: Callable[..., Device]) -> None:
    """A rate for some seconds; a long rest gives no more than the burst."""
    rate = 200_000
    device = make(rate, BURST)
    time.sleep(BURST / rate + 1.0)
    began = time.monotonic()
    got = received(device, seconds=3.0)
    seconds = time.monotonic() - began
    print(f"{got} bytes in {seconds:.1f} s")
    assert BURST < got <= BURST + rate * (seconds + 0.1)


def test_only_the_gateway_needs_credit(make: Callable[..., Device]) -> None:
    device = make(0, BURST)
    assert received(device, Role.SUPERVISOR) == SIZE
    assert device.denied() == {}


def test_observe_counts_and_lets_pass(make: Callable[..., Device]) -> None:
    device = make(0, BURST, enforce=False)
    assert received(device) == SIZE
    assert device.denied()[Role.GATEWAY, Rule.CREDIT] > 0
    assert stream_bytes(device) + stream_bytes(device, Verdict.DENIED) == SIZE


def test_a_guard_without_rights_grants_by_memory(make: Callable[..., Device]) -> None:
    """A mapping of the handed descriptor is enough: no bpf(2), no capability."""
    assert Credit.GUARD == CELL
    device = make(0, BURST)
    fd = device.probes.map_fd("credit")

    def grant() -> int:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        purse = Purse(fd, time.monotonic)
        return purse.grant(100_000, 0)

    told = in_child(grant)
    assert told == device.probes.credit()[Credit.GUARD] == 125_000 + 65_536
    assert BURST + told - SYN - SEGMENT <= received(device) <= BURST + told - SYN


def test_a_new_guard_goes_on_where_the_old_one_was(make: Callable[..., Device]) -> None:
    device = make(0, BURST)
    fd = device.probes.map_fd("credit")
    clock = iter([0.0, 100.0, 101.0, 200.0, 300.0]).__next__
    first = Purse(fd, clock)
    assert first.grant(1000, 0) == 1250 + 65_536
    assert first.grant(1000, 0) == 2 * 1250 + 65_536  # a second later: the questions around it are paid for
    assert Purse(fd, clock).granted == first.granted
    word = int.from_bytes(mmap.mmap(fd, mmap.PAGESIZE)[:8], sys.byteorder)
    assert word == first.granted


class Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def behind_filter(profile: seccomp.Profile, function: Callable[[], Any]) -> Any:
    """Run ``function`` in a child behind the filter of a profile. prctl(2): 38 and 22."""
    fd = seccomp.compile_filter(profile)
    content = os.read(fd, 1 << 20)
    os.close(fd)

    def run() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        code = ctypes.create_string_buffer(content, len(content))
        program = Program(len(content) // 8, ctypes.addressof(code))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
        return function()

    return in_child(run)


OPTIONS: dict[str, tuple[int, int, Any]] = {
    "type of service": (socket.IPPROTO_IP, socket.IP_TOS, 8),
    "time to live": (socket.IPPROTO_IP, socket.IP_TTL, 9),
    "IP options": (socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 8),
    "receive buffer": (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),
    "window": (socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 4096),
    "segment size": (socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_packets_that_need_no_credit_carry_nothing_of_the_gateways_choice(name: str) -> None:
    """What would set a field of every acknowledgement is refused; the two options that it needs are not."""
    level, option, value = OPTIONS[name]

    def attempt() -> bool:
        with socket.socket() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                client.setsockopt(level, option, value)
            except PermissionError:
                return False
        return True

    assert in_child(attempt), "the control: without the filter it works"
    assert not behind_filter(seccomp.Profile.GATEWAY, attempt)
