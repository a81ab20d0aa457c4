# SPDX-License-Identifier: Apache-2.0
"""The second meter: what leaves through a link is our roles', whatever socket it came from.

Links are veth pairs in network namespaces that a child makes. For IP sockets both meters agree to the byte;
packet sockets are seen by the second alone, and a role without a network sends nothing by them.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pyroute2 import IPRoute

from homebound.events import Direction, Family, Kind, Protocol, Role, Rule, Traffic, TrafficKey, Verdict
from homebound.kernel import maps, uplinks
from homebound.kernel.uplinks import Link, Metered, is_uplink
from kernel import wire
from kernel.conftest import MakeDevice
from kernel.rig import Device, in_child
from kernel.test_ways import datagrams, stream
from kernel.ways import by_send

pytestmark = pytest.mark.root

SHOTS = 23
NAME = "homebound test"
ETH_P_ALL, ETH_P_IP, EXPERIMENT = 3, 0x0800, 0x88B5
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
PAYLOAD = b"x" * 100
UDP_BYTES = 20 + 8 + len(PAYLOAD)


def attach(device: Device, name: str = NAME) -> list[Metered]:
    with IPRoute() as netlink:
        program, headers = device.probes.unlinked["hb_uplink"], device.probes.map_fd("link_header")
        return uplinks.attach(netlink, name, program, headers)


def second(device: Device) -> dict[TrafficKey, Traffic]:
    """The second meter's cells that are not zero."""
    cells = maps.read_traffic(device.probes.map_fd("uplink"))
    return {key: cell for key, cell in cells.items() if cell.packets}


def key(role: Role, protocol: Protocol, verdict: Verdict = Verdict.ALLOWED) -> TrafficKey:
    return TrafficKey(role, Direction.TRANSMIT, Family.IPV4, protocol, verdict)


def filters() -> str:
    """What tc(8) shows on the near end."""
    done = subprocess.run(
        ["tc", "filter", "show", "dev", wire.NEAR, "egress"], capture_output=True, text=True, check=True
    )
    return done.stdout


def udp_packet() -> bytes:
    """IPv4 and UDP by hand, to the far end."""
    body = struct.pack("!HHHH", 9, 9, 8 + len(PAYLOAD), 0) + PAYLOAD
    ends = socket.inet_aton(wire.NEAR4) + socket.inet_aton(wire.FAR4)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, socket.IPPROTO_UDP, 0) + ends + body


def frames(content: bytes, kind: int, bypass: bool = False) -> None:
    """23 packets by a packet socket: without (SOCK_DGRAM) or with a header of our own (SOCK_RAW)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW if bypass else socket.SOCK_DGRAM) as made:
        if bypass:
            made.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
            content = b"\xff" * 12 + struct.pack("!H", kind) + content
        for _ in range(SHOTS):
            try:
                made.sendto(content, (wire.NEAR, kind, 0, 0, b"\xff" * 6))
            except OSError as error:
                assert error.errno == errno.ENOBUFS  # noqa: PT017 (what a dropped frame returns)


class Receiver:
    """Counts what arrives at the far end with one ethertype."""

    def __init__(self, far: wire.Wire, kind: int) -> None:
        with far.beyond():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
        self.socket.settimeout(0.3)

    def arrived(self, content: bytes) -> int:
        count = 0
        try:
            while True:
                count += self.socket.recv(2048).startswith(content)
        except TimeoutError:
            return count


@pytest.mark.parametrize("large", [True, False], ids=["gso", "single"])
@pytest.mark.parametrize("address", [wire.FAR4, wire.FAR6])
def test_both_meters_agree_on_ip_sockets(device: Device, address: str, large: bool) -> None:
    """TCP and UDP: to the byte and the packet, and as the capture on the device has it."""

    def scene() -> Any:
        far = wire.stretch(cut=not large)
        assert attach(device) == [Metered(wire.NEAR, True)]
        _, capture, port = stream(device, address, far, by_send)
        sizes = capture.sizes(port, Direction.TRANSMIT)
        datagrams(device, address, far, by_send, 17 if large else 1)
        return sum(sizes)

    size = in_child(scene)
    sent = {k: v for k, v in device.traffic().items() if k.direction is Direction.TRANSMIT}
    assert {k: (v.packets, v.bytes) for k, v in sent.items()} == {
        k: (v.packets, v.bytes) for k, v in second(device).items()
    }
    assert size in {cell.bytes for cell in sent.values()}
    assert len(sent) == 2
    assert device.denied() == {}


def test_packet_sockets_are_seen_by_the_second_alone(device: Device) -> None:
    def scene() -> Any:
        far = wire.stretch()
        attach(device)
        arrivals = [Receiver(far, kind) for kind in (ETH_P_IP, EXPERIMENT)]
        device.run(Role.GATEWAY, lambda: frames(udp_packet(), ETH_P_IP))
        device.run(Role.GATEWAY, lambda: frames(PAYLOAD, EXPERIMENT))
        return arrivals[0].arrived(udp_packet()), arrivals[1].arrived(PAYLOAD)

    assert in_child(scene) == [SHOTS, SHOTS]
    assert device.traffic() == {}
    assert second(device) == {
        key(Role.GATEWAY, Protocol.UDP): Traffic(SHOTS, SHOTS * UDP_BYTES, 0),
        key(Role.GATEWAY, Protocol.OTHER): Traffic(SHOTS, SHOTS * len(PAYLOAD), 0),
    }


@pytest.mark.parametrize("enforce", [True, False])
@pytest.mark.parametrize("role", [Role.TRAINER, Role.GUARD, Role.NONE])
def test_a_sealed_role_sends_no_frame(make_device: MakeDevice, role: Role, enforce: bool) -> None:
    """Counted and told 23 times; dropped, or in observe mode let through."""
    device = make_device(enforce=enforce)

    def scene() -> Any:
        far = wire.stretch()
        attach(device)
        arrivals = Receiver(far, ETH_P_IP)
        device.run(role, lambda: frames(udp_packet(), ETH_P_IP))
        return arrivals.arrived(udp_packet())

    assert in_child(scene) == (0 if enforce else SHOTS)
    denied = key(role, Protocol.UDP, Verdict.DENIED)
    assert second(device) == {denied: Traffic(SHOTS, SHOTS * UDP_BYTES, 0)}
    events = [event for event in device.events() if event.kind is Kind.DENIED]
    assert device.denied() == {(role, Rule.UPLINK): SHOTS}
    assert [(e.rule, e.role, e.address, e.port, e.detail, e.program.label) for e in events] == [
        (Rule.UPLINK, role, wire.FAR4, 9, UDP_BYTES, "uplink")
    ] * SHOTS
    assert {event.cgroup for event in events} == {device.of(role).stat().st_ino}


def test_the_rest_of_the_host_is_not_ours(device: Device) -> None:
    def scene() -> None:
        wire.stretch()
        attach(device)
        frames(udp_packet(), ETH_P_IP)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(PAYLOAD, (wire.FAR4, 9))

    in_child(scene)
    assert second(device) == device.denied() == {}


def test_what_it_does_not_see(device: Device) -> None:
    """A frame that skips the queueing layer is seen by no program of a link: what no role may make at all."""

    def scene() -> Any:
        far = wire.stretch()
        attach(device)
        arrivals = Receiver(far, ETH_P_IP)
        device.run(Role.TRAINER, lambda: frames(udp_packet(), ETH_P_IP, bypass=True))
        return arrivals.arrived(udp_packet())

    assert in_child(scene) == SHOTS
    assert second(device) == {}


def test_links_come_and_go(device: Device) -> None:
    """A link that came later is metered by the next look; one that is gone is no trouble."""

    def scene() -> Any:
        far = wire.stretch()
        first = attach(device)
        wire.ip("link", "add", "hb-more", "type", "veth", "peer", "name", "hb-peer")
        wire.ip("link", "add", "hb-bridge", "type", "bridge")
        both = attach(device)
        wire.ip("link", "delete", "hb-more")
        del far
        return [sorted(entry.name for entry in found if entry.attached) for found in (first, both)], [
            entry.name for entry in attach(device)
        ]

    found, last = in_child(scene)
    assert found == [[wire.NEAR], ["hb-more", wire.NEAR, "hb-peer"]]
    assert last == [wire.NEAR]


def test_an_earlier_life_is_replaced_and_removed(device: Device) -> None:
    """Attached again and again there is one filter; removed there is none, nor a trace of one."""

    def scene() -> Any:
        wire.stretch()
        for _ in range(3):
            attach(device)
        shown = filters()
        device.run(Role.GATEWAY, lambda: frames(udp_packet(), ETH_P_IP))
        with IPRoute() as netlink:
            left = uplinks.remove(netlink, NAME)
        return shown.count(NAME), [entry.attached for entry in left], filters(), clsact()

    assert in_child(scene) == [1, [False], "", 0]
    assert second(device)[key(Role.GATEWAY, Protocol.UDP)].packets == SHOTS


def clsact() -> int:
    done = subprocess.run(
        ["tc", "qdisc", "show", "dev", wire.NEAR], capture_output=True, text=True, check=True
    )
    return done.stdout.count("clsact")


def test_others_keep_theirs(device: Device) -> None:
    """A filter of somebody else, or of another device of this host, stays."""

    def scene() -> Any:
        wire.stretch()
        attach(device)
        attach(device, "homebound other")
        with IPRoute() as netlink:
            uplinks.remove(netlink, NAME)
        shown = filters()
        return NAME in shown, "homebound other" in shown, clsact()

    assert in_child(scene) == [False, True, 1]


def test_the_process_that_the_supervisor_starts(device: Device) -> None:
    """By pins and name, as a command; what cannot be metered says why."""

    def scene() -> Any:
        wire.stretch()
        words = [sys.executable, "-m", "homebound.kernel.uplinks"]
        ends = ["--name", NAME]
        outputs = []
        for more in (["attach", "--pins", str(device.pins)], ["remove"]):
            done = subprocess.run([*words, *more, *ends], capture_output=True, text=True, check=True)
            outputs.append(json.loads(done.stdout))
        return outputs, filters()

    (attached, removed), shown = in_child(scene)
    assert attached == [{"name": wire.NEAR, "attached": True, "reason": ""}]
    assert removed == [{"name": wire.NEAR, "attached": False, "reason": ""}]
    assert shown == ""


def link(name: str, kind: str = "", loopback: bool = False) -> Link:
    return Link(1, name, kind, 14, loopback)


WANTED: list[tuple[Link, bool]] = [
    (link("eth0"), True), (link("wlan0"), True), (link("wwan0"), True), (link("veth1", "veth"), True),
    (link("wg0", "wireguard"), True), (link("tun0", "tun"), True), (link("lo", loopback=True), False),
    (link("eth0.7", "vlan"), False), (link("bond0", "bond"), False), (link("br0", "bridge"), False),
    (link("dummy0", "dummy"), False), (link("vxlan0", "vxlan"), False),
]  # fmt: skip


@pytest.mark.parametrize(("candidate", "wanted"), WANTED, ids=lambda value: getattr(value, "name", None))
def test_which_links_lead_out(candidate: Link, wanted: bool) -> None:
    decide: Callable[[Link], bool] = is_uplink
    assert decide(candidate) is wanted
