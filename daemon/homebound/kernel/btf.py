# SPDX-License-Identifier: Apache-2.0
"""The number of a type among those that the kernel describes: hooks of tracing and LSM programs are named so.

Reads /sys/kernel/btf/vmlinux, a few megabytes, once for each question. May import: nothing of ours.
Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from pathlib import Path

KERNEL = Path("/sys/kernel/btf/vmlinux")
TYPEDEF, FUNCTION = 8, 12
# Bytes after the common 12, by kind; those that depend on the number of members come below.
FIXED = {1: 4, 3: 12, 14: 4, 17: 4}  # int, array, var, decl_tag
PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # struct, union, enum, func_proto, datasec, enum64


def find(name: str, kind: int, file: Path = KERNEL) -> int:
    """The number. Raises LookupError when the kernel has no such type, or describes none at all."""
    try:
        data = file.read_bytes()
    except OSError:
        raise LookupError(f"{file} is not there: this kernel does not describe its types") from None
    header, type_start, type_bytes, name_start, name_bytes = struct.unpack_from("<4xIIIII", data)
    names = data[header + name_start : header + name_start + name_bytes]
    wanted = names.find(b"\0" + name.encode() + b"\0") + 1
    offset, end = header + type_start, header + type_start + type_bytes
    number = 1
    while wanted and offset < end:
        name_at, info = struct.unpack_from("<II", data, offset)
        of_kind = info >> 24 & 0x1F
        if name_at == wanted and of_kind == kind:
            return number
        offset += 12 + FIXED.get(of_kind, 0) + PER_MEMBER.get(of_kind, 0) * (info & 0xFFFF)
        number += 1
    raise LookupError(f"this kernel has no {name}")
