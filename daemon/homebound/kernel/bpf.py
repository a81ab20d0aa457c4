# SPDX-License-Identifier: Apache-2.0
"""bpf(2) by file descriptor: maps, pins, and what the kernel says of programs and links.

Small on purpose: it needs no libbpf and no right beyond the descriptors it is given, so the watcher uses it
too (BPF_OBJ_GET_INFO_BY_FD and map reads want no capability since Linux 5.19).
May import: nothing of ours. Source: bpf(2), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# __NR_bpf; there is no wrapper in the C library.
NUMBERS = {"x86_64": 321, "aarch64": 280}

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_GET_NEXT_KEY, PROG_LOAD = 0, 1, 2, 3, 4, 5
OBJ_GET, OBJ_GET_INFO_BY_FD, ENABLE_STATS, LINK_DETACH = 7, 15, 32, 34
F_RDONLY = 1 << 3
STATS_RUN_TIME = 0
MAP_TYPE_ARRAY = 2
PROG_TYPE_CGROUP_SKB = 8
ATTACH_CGROUP_INET_EGRESS = 1
LINK_TYPE_CGROUP = 3

_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64
_LIBC = ctypes.CDLL(None, use_errno=True)


class MapCreate(ctypes.Structure):
    """Attributes of BPF_MAP_CREATE. What is left 0 may be newer than the kernel."""

    _fields_ = (
        ("type", _U32),
        ("key_size", _U32),
        ("value_size", _U32),
        ("max_entries", _U32),
        ("map_flags", _U32),
        ("inner_map_fd", _U32),
        ("numa_node", _U32),
        ("map_name", ctypes.c_char * 16),
        ("map_ifindex", _U32),
        ("btf_fd", _U32),
        ("btf_key_type_id", _U32),
        ("btf_value_type_id", _U32),
    )


class _Element(ctypes.Structure):
    _fields_ = (("fd", _U32), ("key", _U64), ("value", _U64), ("flags", _U64))


class _Object(ctypes.Structure):
    _fields_ = (("path", _U64), ("fd", _U32), ("flags", _U32))


class Word(ctypes.Structure):
    """Attributes that are one number."""

    _fields_ = (("value", _U32),)


class _Info(ctypes.Structure):
    _fields_ = (("fd", _U32), ("length", _U32), ("info", _U64))


class ProgLoad(ctypes.Structure):
    """Attributes of BPF_PROG_LOAD. What is left 0 may be newer than the kernel."""

    _fields_ = (
        ("type", _U32),
        ("insn_cnt", _U32),
        ("insns", _U64),
        ("license", _U64),
        ("log_level", _U32),
        ("log_size", _U32),
        ("log_buf", _U64),
        ("kern_version", _U32),
        ("prog_flags", _U32),
        ("name", ctypes.c_char * 16),
        ("ifindex", _U32),
        ("expected_attach_type", _U32),
        ("prog_btf_fd", _U32),
        ("func_info_rec_size", _U32),
        ("func_info", _U64),
        ("func_info_cnt", _U32),
        ("line_info_rec_size", _U32),
        ("line_info", _U64),
        ("line_info_cnt", _U32),
        ("attach_btf_id", _U32),
    )


class _MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", _U32),
        ("id", _U32),
        ("key_size", _U32),
        ("value_size", _U32),
        ("max_entries", _U32),
        ("map_flags", _U32),
        ("name", ctypes.c_char * 16),
    )


class _ProgramInfo(ctypes.Structure):
    """Up to run_cnt; the fields between are pointers and lengths that we leave zero."""

    _fields_ = (
        ("type", _U32),
        ("id", _U32),
        ("skipped", ctypes.c_uint8 * 56),
        ("name", ctypes.c_char * 16),
        ("skipped_too", ctypes.c_uint8 * 112),
        ("run_time_ns", _U64),
        ("run_cnt", _U64),
    )


class _LinkInfo(ctypes.Structure):
    """The union holds a pointer and a length for tracepoints, a cgroup id for cgroups."""

    _fields_ = (("type", _U32), ("id", _U32), ("prog_id", _U32), ("cgroup_id", _U64), ("rest", _U64 * 4))


@dataclass(frozen=True)
class MapInfo:
    """Sizes are in bytes."""

    name: str
    key_size: int
    value_size: int
    max_entries: int


@dataclass(frozen=True)
class ProgramInfo:
    """``runs`` and ``run_seconds`` grow only while somebody has statistics enabled."""

    id: int
    name: str
    runs: int
    run_seconds: float


@dataclass(frozen=True)
class LinkInfo:
    """``cgroup`` is the id a cgroup link is attached to, 0 after it was detached, None for other links."""

    program: int
    cgroup: int | None


def call(command: int, attributes: ctypes.Structure) -> int:
    """One bpf(2). Raises OSError."""
    number = NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {os.uname().machine} is not known here")
    result: int = _LIBC.syscall(
        ctypes.c_long(number),
        ctypes.c_int(command),
        ctypes.byref(attributes),
        ctypes.c_uint(ctypes.sizeof(attributes)),
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf(2): {os.strerror(error)}")
    return result


def lookup(fd: int, key: bytes, value: ctypes.Array[ctypes.c_char]) -> bool:
    """Read an element into ``value``, which must be as long as the kernel writes (per-CPU: 8-byte rounded
    value x possible CPUs). False when there is none."""
    keys = ctypes.create_string_buffer(key, len(key))
    try:
        call(MAP_LOOKUP, _Element(fd, _address(keys), _address(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def update(fd: int, key: bytes, value: bytes) -> None:
    """Write an element, new or not."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    call(MAP_UPDATE, _Element(fd, _address(keys), _address(values), 0))


def delete(fd: int, key: bytes) -> bool:
    """Remove an element. False when there was none."""
    keys = ctypes.create_string_buffer(key, len(key))
    try:
        call(MAP_DELETE, _Element(fd, _address(keys), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def keys(fd: int, size: int) -> Iterator[bytes]:
    """The keys of a hash map, each ``size`` bytes; a map that is changed meanwhile may give some twice."""
    buffer, position = ctypes.create_string_buffer(size), 0
    while True:
        try:
            call(MAP_GET_NEXT_KEY, _Element(fd, position, _address(buffer), 0))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield buffer.raw
        position = _address(buffer)


def open_pin(path: Path, flags: int = 0) -> int:
    """A new descriptor (close-on-exec) of what is pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return call(OBJ_GET, _Object(_address(name), 0, flags))


def map_info(fd: int) -> MapInfo:
    """Shape of a map."""
    info = _MapInfo()
    _read_info(fd, info)
    return MapInfo(info.name.decode(), info.key_size, info.value_size, info.max_entries)


def program_info(fd: int) -> ProgramInfo:
    """Identity and cost of a program."""
    info = _ProgramInfo()
    _read_info(fd, info)
    return ProgramInfo(info.id, info.name.decode(), info.run_cnt, info.run_time_ns / 1e9)


def link_info(fd: int) -> LinkInfo:
    """What a link holds in place, and where."""
    info = _LinkInfo()
    _read_info(fd, info)
    return LinkInfo(info.prog_id, info.cgroup_id if info.type == LINK_TYPE_CGROUP else None)


def detach_link(fd: int) -> bool:
    """Take a program from its cgroup now. Removing the last pin does it too, but some time later (the kernel
    leaves it to a worker). False for a link that cannot be detached so, as one to a tracepoint."""
    try:
        call(LINK_DETACH, Word(fd))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True


def enable_stats() -> int:
    """Have the kernel measure programs as long as the returned descriptor is open (5.8, CAP_SYS_ADMIN)."""
    return call(ENABLE_STATS, Word(STATS_RUN_TIME))


def create_array() -> int:
    """The smallest map there is: to see whether maps can be made."""
    return call(MAP_CREATE, MapCreate(MAP_TYPE_ARRAY, 4, 4, 1))


def load_pass_all() -> int:
    """The smallest egress program (return 1): to see whether programs for cgroups can be loaded."""
    # Two instructions: r0 = 1 (BPF_ALU64 | BPF_MOV | BPF_K), exit (BPF_JMP | BPF_EXIT).
    code = ctypes.create_string_buffer(b"\xb7\x00\x00\x00\x01\x00\x00\x00\x95" + bytes(7), 16)
    terms = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attributes = ProgLoad(PROG_TYPE_CGROUP_SKB, 2, _address(code), _address(terms))
    attributes.expected_attach_type = ATTACH_CGROUP_INET_EGRESS
    return call(PROG_LOAD, attributes)


def _read_info(fd: int, info: ctypes.Structure) -> None:
    call(OBJ_GET_INFO_BY_FD, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)
