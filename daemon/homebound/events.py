# SPDX-License-Identifier: Apache-2.0
"""Kernel records as Python values: the mirror of bpf/include/homebound.h, and nothing that touches a kernel.

Numbers are enums, structs are ctypes structures (structs.py), what the rest of homebound sees are frozen
dataclasses. tests/kernel/test_layout.py compares all of it with the header through BTF.
Pure: no file, no clock, no kernel. May import: structs.
"""

from __future__ import annotations

import ctypes
import enum
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from homebound.structs import EventRecord

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
    """Why something was denied. Below 20 and from 40 by our programs; from 20 by seccomp, a namespace or
    Landlock."""

    SOCK_CREATE = 10
    CONNECT4 = 11
    CONNECT6 = 12
    SENDMSG4 = 13
    SENDMSG6 = 14
    EGRESS = 15
    INGRESS = 16
    CREDIT = 17
    UPLINK = 18
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
    CGROUP = 36
    LSM_SOCKET = 40
    LSM_CONNECT = 41
    LSM_SEND = 42
    LSM_OPEN = 43
    LSM_RECEIVE = 44
    LSM_TRACE = 45
    LSM_BPF = 46
    LSM_USERNS = 47
    LSM_KEY = 48


class Credit(_Label, enum.IntEnum):
    """Cells of the map ``credit``: bytes granted by each of two writers, and how many of them were used."""

    GUARD = 0
    SUPERVISOR = 1
    USED = 2


CREDIT_MAX = 4


class Kind(_Label, enum.IntEnum):
    """What an event tells. ATTEMPT: as DENIED, but nothing refused it. CANARY: the watcher asked for it, to
    see that events come through. ROLE_EXIT is a number kept for user space; no program makes it."""

    DENIED = 10
    CANARY = 20
    ROLE_EXIT = 30
    ATTEMPT = 31
    PROCESS_FORK = 32
    PROCESS_EXEC = 33
    PROCESS_EXIT = 34
    FILE_OPEN = 35


class Flag(enum.IntFlag):
    """What else an event says. OOM: ended by the OOM killer. LEFT, ENTERED: moved out of or into a role."""

    OOM = 1
    LEFT = 2
    ENTERED = 4


# Kinds that programs make, and those of them that name a rule.
AGAINST_A_RULE = frozenset({Kind.DENIED, Kind.ATTEMPT})
MADE = frozenset(Kind) - {Kind.ROLE_EXIT}


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
    PROCESS_FORK = 8
    PROCESS_EXEC = 9
    PROCESS_EXIT = 10
    PROCESS_MOVE = 11
    CALLS = 12
    FILES = 13
    THREAD_EXIT = 14
    THREAD_MOVE = 15
    THREAD_LIVE = 16
    CALL_ENTER = 17
    CALL_EXIT = 18
    UPLINK = 40
    LSM_SOCKET = 44
    LSM_CONNECT = 45
    LSM_SEND = 46
    LSM_OPEN = 47
    LSM_RECEIVE = 48
    LSM_TRACE = 49
    LSM_BPF = 50
    LSM_USERNS = 51
    LSM_KEY = 52

    @property
    def bpf_name(self) -> str:
        return f"hb_{self.label}"

    @property
    def is_required(self) -> bool:
        """Whether nothing may start without it. The others only look on: each falls out alone."""
        return self <= Program.SYSCALL_EXIT


# Programs whose events describe what is against no rule.
ACTIVITY = frozenset({Program.PROCESS_FORK, Program.PROCESS_EXEC, Program.PROCESS_EXIT, Program.FILES})


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


class CallClass(_Label, enum.IntEnum):
    """What a system call is about."""

    OTHER = 0
    FILE = 1
    NETWORK = 2
    PROCESS = 3
    MEMORY = 4
    IPC = 5
    PRIVILEGED = 6


CLASSES_MAX = 8


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
    CANARY = 9


class Canary(_Label, enum.IntEnum):
    """Of the event that the watcher asks for: the descriptor that it closes, which there cannot be."""

    DESCRIPTOR = 0x686F6D65


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
class Processes:
    """What a role's processes did since load. ``killed``: exits by a signal. ``peak_bytes``: the most that
    one of those that ended had in memory."""

    forks: int
    threads: int
    execs: int
    exits: int
    killed: int
    oom_kills: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Calls:
    """System calls of a role since load. ``by_class``: native ones, where all are counted; ``compat``: of
    32-bit tasks; ``x32``: with the numbers of that interface."""

    by_class: Mapping[CallClass, int]
    compat: int
    x32: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something was denied, or done. ``address`` is "" where there is none; ``time_ns`` is CLOCK_MONOTONIC;
    ``error`` is the errno of a helper that failed while the event was made, else 0; ``rule`` is None for what
    is against none."""

    kind: Kind
    role: Role
    rule: Rule | None
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
    flags: int = 0
    area: int = 0  # kernel.files.FileArea


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
    if raw.kind not in MADE:
        return Flaw.KIND
    against = raw.kind in AGAINST_A_RULE
    try:
        role, program, flags = Role(raw.role), Program(raw.program), raw.flags
        rule = Rule(raw.rule) if against else None
    except ValueError:
        return Flaw.VALUE
    named = rule is not None and (Rule.CONNECT4 <= rule <= Rule.UPLINK or rule is Rule.LSM_CONNECT)
    return Event(
        kind=Kind(raw.kind),
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
        flags=flags,
        area=raw.area,
    )
