# SPDX-License-Identifier: Apache-2.0
"""bpf(2) that makes things: maps, programs, links, pins. What bytecode needs where libbpf is not used.

Needs root. Descriptors that are returned are the caller's and close-on-exec, as all of bpf(2)'s are.
May import: kernel.bpf, kernel.bytecode. Source: bpf(2), include/uapi/linux/bpf.h, Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from homebound.kernel import bpf
from homebound.kernel.bytecode import Shape

OBJ_PIN, RAW_TRACEPOINT_OPEN, BTF_LOAD, MAP_FREEZE, LINK_CREATE = 6, 17, 18, 22, 28
F_RDONLY_PROG = 1 << 7
# sk, inode, task, cgroup: the kernel wants to be told the types of these.
STORAGES = (24, 28, 29, 32)
LOG_BYTES = 1 << 20
BTF_INT, BTF_STRUCT = 1, 4

_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64


class _BtfLoad(ctypes.Structure):
    _fields_ = (("btf", _U64), ("log_buf", _U64), ("size", _U32), ("log_size", _U32), ("log_level", _U32))


class _Pin(ctypes.Structure):
    _fields_ = (("path", _U64), ("fd", _U32), ("flags", _U32))


class _Link(ctypes.Structure):
    _fields_ = (("program", _U32), ("target", _U32), ("attach_type", _U32), ("flags", _U32))


class _RawTracepoint(ctypes.Structure):
    _fields_ = (("name", _U64), ("program", _U32))


@dataclass(frozen=True)
class ProgramKind:
    """What the kernel wants to know of a program before it verifies it. ``btf_id``: of the hook's type."""

    type: int
    attach_type: int = 0
    btf_id: int = 0


def create_map(shape: Shape) -> int:
    """Make a map."""
    wanted = bpf.MapCreate(shape.type, shape.key_bytes, shape.value_bytes, shape.entries, shape.flags)
    wanted.map_name = shape.name.encode()[:15]
    if not (shape.locked or shape.type in STORAGES):
        return bpf.call(bpf.MAP_CREATE, wanted)
    wanted.btf_fd, wanted.btf_key_type_id, wanted.btf_value_type_id = _load_types(shape), 1, 2
    try:
        return bpf.call(bpf.MAP_CREATE, wanted)
    finally:
        os.close(wanted.btf_fd)


def create_constants(name: str, value: bytes) -> int:
    """A map of one value that nobody changes from now on: the verifier reads it as constants."""
    shape = Shape(name, 0, bpf.MAP_TYPE_ARRAY, 1, F_RDONLY_PROG, 4, len(value), 0)
    fd = create_map(shape)
    try:
        bpf.update(fd, bytes(4), value)
        bpf.call(MAP_FREEZE, bpf.Word(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def load_program(name: str, kind: ProgramKind, instructions: bytes, terms: str) -> int:
    """Have the kernel verify a program. Raises OSError; the verifier's last words are its text."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    text = ctypes.create_string_buffer(terms.encode())
    wanted = bpf.ProgLoad(kind.type, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(text))
    wanted.name = name.encode()[:15]
    wanted.expected_attach_type, wanted.attach_btf_id = kind.attach_type, kind.btf_id
    try:
        return bpf.call(bpf.PROG_LOAD, wanted)
    except OSError as refused:
        log = ctypes.create_string_buffer(LOG_BYTES)
        wanted.log_level, wanted.log_size, wanted.log_buf = 1, LOG_BYTES, ctypes.addressof(log)
        try:
            return bpf.call(bpf.PROG_LOAD, wanted)
        except OSError:
            reason = _last_words(log.value.decode(errors="replace"))
            raise OSError(refused.errno, f"{os.strerror(refused.errno or 0)}{reason}") from refused


def link_create(program: int, target: int, attach_type: int) -> int:
    """Put a program on a cgroup (beside others) or a perf event. Detached when its last holder lets go."""
    return bpf.call(LINK_CREATE, _Link(program, target, attach_type, 0))


def raw_tracepoint_open(program: int, name: str) -> int:
    """Put a program on a raw tracepoint; without a name, on the hook that it was loaded for."""
    text = ctypes.create_string_buffer(name.encode())
    return bpf.call(RAW_TRACEPOINT_OPEN, _RawTracepoint(ctypes.addressof(text) if name else 0, program))


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in the BPF file system, which holds it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf.call(OBJ_PIN, _Pin(ctypes.addressof(name), fd, 0))


def _last_words(log: str) -> str:
    """The verifier's line that says what it does not like: the last before its statistics."""
    lines = [line for line in log.splitlines() if line and not line.startswith("processed ")]
    return f": {lines[-1]}" if lines else ""


def _load_types(shape: Shape) -> int:
    """Types for a map: 1 its key, a signed integer; 2 its value, a struct, with the lock at its beginning."""
    names = b"\0bpf_spin_lock\0val\0lock\0"
    lock, word, member = 1, 15, 19
    integer = struct.pack("<III", 0, BTF_INT << 24, 4) + struct.pack("<I", 1 << 24 | 32)
    value = struct.pack("<III", 0, BTF_STRUCT << 24 | shape.locked, shape.value_bytes)
    if shape.locked:
        value += struct.pack("<III", member, 3, 0)
    lock_type = struct.pack("<III", lock, BTF_STRUCT << 24 | 1, 4) + struct.pack("<III", word, 1, 0)
    types = integer + value + lock_type
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    data = ctypes.create_string_buffer(header + types + names)
    size = len(header) + len(types) + len(names)
    return bpf.call(BTF_LOAD, _BtfLoad(ctypes.addressof(data), 0, size, 0, 0))
