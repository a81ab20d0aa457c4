# SPDX-License-Identifier: Apache-2.0
"""Kernel records: what is decoded is what was written, and what is not understood is told by its flaw."""

from __future__ import annotations

import ctypes
import dataclasses
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebound import events
from homebound.events import Event, Flaw, Kind, Program, Role, Rule
from homebound.structs import EventRecord

SIZE = ctypes.sizeof(EventRecord)


def record(**fields: Any) -> EventRecord:
    """A connect to 192.0.2.1 port 443 that the trainer was refused."""
    base: dict[str, Any] = {
        "version": events.VERSION,
        "kind": Kind.DENIED,
        "size": SIZE,
        "role": Role.TRAINER,
        "rule": Rule.CONNECT4,
        "program": Program.CONNECT4,
        "time_ns": 2**63 + 7,
        "cgroup": 2**40 + 1,
        "pid": 4242,
        "tid": 4243,
        "family": socket.AF_INET,
        "protocol": 6,
        "port": 443,
        "address": (ctypes.c_uint8 * 16)(*events.address_bytes("192.0.2.1")),
        "syscall": -1,
        "result": 0,
        "detail": 1,
    }
    return EventRecord(**(base | fields))


def test_every_field_arrives() -> None:
    assert events.decode(bytes(record())) == Event(
        kind=Kind.DENIED,
        role=Role.TRAINER,
        rule=Rule.CONNECT4,
        program=Program.CONNECT4,
        time_ns=2**63 + 7,
        cgroup=2**40 + 1,
        pid=4242,
        tid=4243,
        family=2,
        protocol=6,
        address="192.0.2.1",
        port=443,
        syscall=-1,
        result=0,
        detail=1,
        error=0,
    )


def test_an_event_cannot_be_changed() -> None:
    event = events.decode(bytes(record()))
    assert isinstance(event, Event)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.role = Role.GUARD  # type: ignore[misc]


@pytest.mark.parametrize(
    ("raw", "flaw"),
    [
        (b"", Flaw.SIZE),
        (bytes(record())[:-1], Flaw.SIZE),
        (bytes(record(size=SIZE - 1)), Flaw.SIZE),
        (bytes(record(size=SIZE + 1)), Flaw.SIZE),
        (bytes(record(version=0)), Flaw.VERSION),
        (bytes(record(version=events.VERSION + 1)), Flaw.VERSION),
        (bytes(record(kind=11)), Flaw.KIND),
        (bytes(record(kind=Kind.ROLE_EXIT)), Flaw.KIND),
        (bytes(record(role=7)), Flaw.VALUE),
        (bytes(record(rule=0)), Flaw.VALUE),
        (bytes(record(program=99)), Flaw.VALUE),
    ],
)
def test_flaws(raw: bytes, flaw: Flaw) -> None:
    assert events.decode(raw) is flaw


def test_a_longer_record_is_read_as_far_as_it_is_known() -> None:
    event = events.decode(bytes(record(size=SIZE + 8)) + bytes(8))
    assert isinstance(event, Event)
    assert event.port == 443


@given(st.binary(max_size=2 * SIZE))
def test_no_bytes_break_it(raw: bytes) -> None:
    assert isinstance(events.decode(raw), Event | Flaw)


@given(st.binary(min_size=SIZE - 8, max_size=SIZE - 8))
def test_no_fields_break_it(rest: bytes) -> None:
    head = bytes(record())[:8]
    assert isinstance(events.decode(head + rest), Event | Flaw)


def test_rules_without_an_address_show_none() -> None:
    event = events.decode(bytes(record(rule=Rule.SOCKET_VSOCK, program=Program.SYSCALL_EXIT)))
    assert isinstance(event, Event)
    assert event.address == ""


@given(st.ip_addresses())
def test_addresses_come_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    raw = events.address_bytes(str(address))
    assert len(raw) == 16
    back = ipaddress.ip_address(events.address_text(raw))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert back == (mapped or address)


def test_both_notations_of_an_address_are_one_key() -> None:
    assert events.address_bytes("127.0.0.1") == events.address_bytes("::ffff:127.0.0.1")
    assert events.address_bytes("127.0.0.1") != events.address_bytes("::1")


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "1.2.3.4.5", "::1%lo", "127.0.0.1:80"])
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        events.address_bytes(text)


def test_labels_are_the_words_of_metrics() -> None:
    assert Rule.SOCKET_STREAM.label == "socket_stream"
    assert Rule.IO_URING.label == "io_uring"
    assert Role.GATEWAY.label == "gateway"
    assert Program.SYSCALL_EXIT.bpf_name == "hb_syscall_exit"


def test_numbers_fit_their_tables() -> None:
    assert max(Role) < events.ROLES_MAX
    assert max(Rule) < events.RULES_MAX
    indices = {events.denied_index(role, rule) for role in Role for rule in Rule}
    assert len(indices) == len(Role) * len(Rule)
    assert max(indices) < events.ROLES_MAX * events.RULES_MAX
