# SPDX-License-Identifier: Apache-2.0
"""BPF instructions as bcc compiles them, before they are tied to maps: pure, no call to the kernel.

In these instructions a map is a number of the object's own (bpf/include/dialect.bpf.h); link() puts
descriptors in place of the numbers. May import: errors. Source: Documentation/bpf/standardization/
instruction-set.rst (64-bit immediates), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from homebound.errors import InternalError

WORD = 8
LOAD_CONSTANT = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two words, what the constant is in the source register
CALL, JUMP, EXIT = 0x85, 0x05, 0x95
MAP_BY_NUMBER, VALUE_BY_NUMBER = 1, 2  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
SETTINGS_NUMBER = 4096
SHAPE_PREFIX = "hb_shape_"
# The tags of HB_SHAPE, in their order from 1 on.
TAGS = ("number", "type", "entries", "flags", "key_bytes", "value_bytes", "locked")


@dataclass(frozen=True)
class Shape:
    """A map that an object wants. ``number`` stands for it in the instructions; ``locked``: its value begins
    with a lock."""

    name: str
    number: int
    type: int
    entries: int
    flags: int
    key_bytes: int
    value_bytes: int
    locked: int


@dataclass(frozen=True)
class Code:
    """One program. ``section`` says what it is and where it belongs, as libbpf's SEC() does."""

    name: str
    section: str
    instructions: bytes


@dataclass(frozen=True)
class Object:
    """What one source file became."""

    name: str
    license: str
    maps: tuple[Shape, ...]
    programs: tuple[Code, ...]


def words(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Offset, opcode, source register and immediate of each instruction; the second half of a 64-bit
    constant is passed over."""
    offset = 0
    while offset < len(code):
        opcode, registers, _, immediate = struct.unpack_from("<BBhi", code, offset)
        yield offset, opcode, registers >> 4, immediate
        offset += 2 * WORD if opcode == LOAD_CONSTANT else WORD


def read_shape(name: str, code: bytes) -> Shape:
    """A map out of the function that tells its shape."""
    told = {source: value for _, opcode, source, value in words(code) if opcode == LOAD_CONSTANT}
    try:
        values = {tag: told[number] for number, tag in enumerate(TAGS, 1)}
    except KeyError:
        raise InternalError(f"the shape of the map {name} is not told whole", "report this") from None
    return Shape(name, **values)


def link(code: Code, fds: Mapping[int, int]) -> bytes:
    """The instructions with a descriptor in place of each number."""
    linked = bytearray(code.instructions)
    for offset, opcode, source, number in words(code.instructions):
        if opcode != LOAD_CONSTANT or source not in (MAP_BY_NUMBER, VALUE_BY_NUMBER):
            continue
        if number not in fds:
            raise InternalError(f"{code.name} uses a map without a shape", "declare it by HB_MAP")
        struct.pack_into("<i", linked, offset + 4, fds[number])
    return bytes(linked)


def to_json(objects: tuple[Object, ...]) -> str:
    """For from_json() in another process."""
    documents = [asdict(entry) for entry in objects]
    for document in documents:
        document["programs"] = [
            code | {"instructions": code["instructions"].hex()} for code in document["programs"]
        ]
    return json.dumps(documents)


def from_json(text: str) -> tuple[Object, ...]:
    """Read what to_json() wrote."""
    return tuple(
        Object(
            document["name"],
            document["license"],
            tuple(Shape(**shape) for shape in document["maps"]),
            tuple(
                Code(code["name"], code["section"], bytes.fromhex(code["instructions"]))
                for code in document["programs"]
            ),
        )
        for document in json.loads(text)
    )
