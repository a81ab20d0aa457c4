# SPDX-License-Identifier: Apache-2.0
"""Kernel records as Python values: the mirror of bpf/include/homebound.h, and nothing that touches a kernel.

Numbers are enums, structs are ctypes structures, what the rest of homebound sees are frozen dataclasses.
tests/kernel/test_layout.py compares all of it with the header through BTF.
Pure: no file, no clock, no kernel. Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import enum
import socket
from dataclasses import dataclass

VERSION = 2
ROLES_MAX = 8
RULES_MAX = 64
PROGRAMS_MAX = 64
TRAFFIC_MAX = ROLES_MAX * 2 * 2 * 4 * 2
V4_MAPPED = bytes(10) + b"\xff\xff"


class _Label:
    """The name as metrics, journal and JSON write it."""

    name: str

    @property
    def label(self) -> str:
        return self.name.lower()


class Role(_Label, enum.IntEnum):
    """Who. NONE: below the device's root cgroup, but in no role."""

    NONE = 0
    SUPERVISOR = 1
    WATCHER = 2
    TRAINER = 3
    GUARD = 4
    GATEWAY = 5
    CANARY = 6


class Rule(_Label, enum.IntEnum):
    """Why something was denied. Below 20 by our programs; from 20 by seccomp, a namespace or Landlock."""

    SOCK_CREATE = 10
    CONNECT4 = 11
    CONNECT6 = 12
    SENDMSG4 = 13
    SENDMSG6 = 14
    EGRESS = 15
    INGRESS = 16
    CREDIT = 17
    SOCKET_STREAM = 20
    SOCKET_DATAGRAM = 21
    SOCKET_RAW = 22
    SOCKET_PACKET = 23
    SOCKET_VSOCK = 24
    SOCKET_UNIX = 25
    SOCKET_NETLINK = 26
    SOCKET_OTHER = 27
    IO_URING = 30
    FILE_OUTSIDE = 31
    FOREIGN_FD = 32
    NAMESPACE = 33
    TRACE = 34
    KERNEL = 35


class Credit(_Label, enum.IntEnum):
    """Cells of the map ``credit``: bytes granted by each of two writers, and how many of them were used."""

    GUARD = 0
    SUPERVISOR = 1
    USED = 2


CREDIT_MAX = 4


class Kind(_Label, enum.IntEnum):
    """What an event tells. CANARY and ROLE_EXIT are numbers kept for user space; no program makes them."""

    DENIED = 10
    CANARY = 20
    ROLE_EXIT = 30


class Program(_Label, enum.IntEnum):
    """The BPF programs; ``bpf_name`` is what ``bpftool prog list`` shows."""

    SOCK_CREATE = 0
    CONNECT4 = 1
    CONNECT6 = 2
    SENDMSG4 = 3
    SENDMSG6 = 4
    EGRESS = 5
    INGRESS = 6
    SYSCALL_EXIT = 7

    @property
    def bpf_name(self) -> str:
        return f"hb_{self.label}"

    @property
    def is_required(self) -> bool:
        """Whether nothing may start without it. The others only look on: each falls out alone."""
        return self in _REQUIRED


_REQUIRED = frozenset(
    {
        Program.SOCK_CREATE,
        Program.CONNECT4,
        Program.CONNECT6,
        Program.SENDMSG4,
        Program.SENDMSG6,
        Program.EGRESS,
        Program.INGRESS,
        Program.SYSCALL_EXIT,
    }
)


class Direction(_Label, enum.IntEnum):
    """Which way a packet went."""

    TRANSMIT = 0
    RECEIVE = 1


class Family(_Label, enum.IntEnum):
    """Of a packet on the wire: IPv4 through an IPv6 socket is IPV4."""

    IPV4 = 0
    IPV6 = 1


class Protocol(_Label, enum.IntEnum):
    """OTHER is also what could not be followed to its transport header."""

    TCP = 0
    UDP = 1
    ICMP = 2
    OTHER = 3


class Verdict(_Label, enum.IntEnum):
    """In observe mode DENIED went through all the same."""

    ALLOWED = 0
    DENIED = 1


class Side(_Label, enum.IntEnum):
    """What an endpoint stands for: packets to a remote address and port, or from a local port."""

    TO_REMOTE = 0
    FROM_LOCAL = 1


class Shape(_Label, enum.IntEnum):
    """How the arguments of a system call are read before it counts as denied."""

    PLAIN = 0
    SOCKET = 1
    OPEN = 2
    OPENAT = 3
    OPENAT2 = 4
    CREATE = 5
    CLONE = 6
    CLONE3 = 7
    DESCRIPTOR = 8


_U8, _U16, _U32, _U64, _S32 = (
    ctypes.c_uint8,
    ctypes.c_uint16,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_int32,
)


class SettingsRecord(ctypes.Structure):
    """struct hb_settings"""

    _fields_ = (("role_level", _U32), ("enforce", _U32), ("allowance_rate", _U32), ("allowance_burst", _U32))


class EndpointRecord(ctypes.Structure):
    """struct hb_endpoint"""

    _fields_ = (
        ("role", _U32),
        ("port", _U16),
        ("protocol", _U8),
        ("direction", _U8),
        ("address", _U8 * 16),
    )


class TrafficRecord(ctypes.Structure):
    """struct hb_traffic"""

    _fields_ = (("packets", _U64), ("bytes", _U64), ("stream_bytes", _U64))


class ProgramStateRecord(ctypes.Structure):
    """struct hb_program_state"""

    _fields_ = (("made", _U64), ("lost", _U64), ("failed_lookups", _U64))


class StreamRecord(ctypes.Structure):
    """struct hb_stream"""

    _fields_ = (("next_sequence", _U32),)


class EventRecord(ctypes.Structure):
    """struct hb_event"""

    _fields_ = (
        ("version", _U16),
        ("error", _U16),
        ("kind", _U16),
        ("size", _U16),
        ("role", _U32),
        ("rule", _U32),
        ("time_ns", _U64),
        ("cgroup", _U64),
        ("pid", _U32),
        ("tid", _U32),
        ("family", _U8),
        ("protocol", _U8),
        ("port", _U16),
        ("address", _U8 * 16),
        ("syscall", _S32),
        ("result", _S32),
        ("program", _U32),
        ("detail", _U64),
    )


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """One cell of the traffic counters."""

    role: Role
    direction: Direction
    family: Family
    protocol: Protocol
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Traffic:
    """``bytes``: IP bytes on the wire, headers too. ``stream_bytes``: TCP payload sent, each byte once."""

    packets: int
    bytes: int
    stream_bytes: int


@dataclass(frozen=True, slots=True)
class ProgramCounts:
    """``made`` events are those seen plus those ``lost``; failed lookups are counted, never passed over."""

    made: int
    lost: int
    failed_lookups: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something was denied. ``address`` is "" where there is none; ``time_ns`` is CLOCK_MONOTONIC;
    ``error`` is the errno of a helper that failed while the event was made, else 0."""

    kind: Kind
    role: Role
    rule: Rule
    program: Program
    time_ns: int
    cgroup: int
    pid: int
    tid: int
    family: int
    protocol: int
    address: str
    port: int
    syscall: int
    result: int
    detail: int
    error: int


class Flaw(_Label, enum.Enum):
    """Why a record could not be decoded."""

    SIZE = "size"
    VERSION = "version"
    KIND = "kind"
    VALUE = "value"


def traffic_index(key: TrafficKey) -> int:
    """hb_traffic_index of the header."""
    return (((key.role * 2 + key.direction) * 2 + key.family) * 4 + key.protocol) * 2 + key.verdict


def denied_index(role: Role, rule: Rule) -> int:
    """Index into the denied counters."""
    return role * RULES_MAX + rule


def address_bytes(address: str) -> bytes:
    """An IPv4 (v4-mapped) or IPv6 address as the kernel side keeps it: 16 bytes. ValueError if it is none."""
    for family, prefix in ((socket.AF_INET, V4_MAPPED), (socket.AF_INET6, b"")):
        try:
            return prefix + socket.inet_pton(family, address)
        except OSError:
            continue
    raise ValueError(f"not an IP address: {address!r}")


def address_text(address: bytes) -> str:
    """The other way round; a v4-mapped address comes back as IPv4."""
    if address.startswith(V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[len(V4_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, address)


def decode(record: bytes) -> Event | Flaw:
    """One record of the ring buffer. Newer programs may append fields: a longer record is read as far as
    it is known."""
    if len(record) < ctypes.sizeof(EventRecord):
        return Flaw.SIZE
    raw = EventRecord.from_buffer_copy(record)
    if raw.version != VERSION:
        return Flaw.VERSION
    if not ctypes.sizeof(EventRecord) <= raw.size <= len(record):
        return Flaw.SIZE
    if raw.kind != Kind.DENIED:
        return Flaw.KIND
    try:
        role, rule, program = Role(raw.role), Rule(raw.rule), Program(raw.program)
    except ValueError:
        return Flaw.VALUE
    named = Rule.CONNECT4 <= rule <= Rule.CREDIT
    return Event(
        kind=Kind.DENIED,
        role=role,
        rule=rule,
        program=program,
        time_ns=raw.time_ns,
        cgroup=raw.cgroup,
        pid=raw.pid,
        tid=raw.tid,
        family=raw.family,
        protocol=raw.protocol,
        address=address_text(bytes(raw.address)) if named else "",
        port=raw.port,
        syscall=raw.syscall,
        result=raw.result,
        detail=raw.detail,
        error=raw.error,
    )
