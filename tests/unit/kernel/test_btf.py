# SPDX-License-Identifier: Apache-2.0
"""A type's number out of a BTF file that is made here, with every kind whose length differs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from homebound.kernel import btf

NAMES = ["int", "btf_trace_x", "task", "bpf_lsm_y", "x", "y"]


def write(path: Path) -> Path:
    text = b"\0" + b"".join(name.encode() + b"\0" for name in NAMES)
    at = {name: text.index(b"\0" + name.encode() + b"\0") + 1 for name in NAMES}

    def entry(name: str, kind: int, members: int, size: int, rest: bytes = b"") -> bytes:
        return struct.pack("<III", at.get(name, 0), kind << 24 | members, size) + rest

    types = b"".join(
        (
            entry("int", 1, 0, 4, bytes(4)),
            entry("", 2, 0, 1),  # a pointer
            entry("", 3, 0, 0, bytes(12)),  # an array
            entry("task", 4, 2, 16, bytes(24)),
            entry("x", 6, 3, 4, bytes(24)),  # an enum
            entry("", 13, 2, 1, bytes(16)),  # what a function takes
            entry("btf_trace_x", 4, 0, 0),  # a struct of that name is not what is looked for
            entry("btf_trace_x", 8, 0, 2),
            entry("y", 14, 0, 1, bytes(4)),  # a variable
            entry("", 15, 1, 8, bytes(12)),  # a section
            entry("", 17, 0, 1, bytes(4)),  # a tag
            entry("", 19, 1, 8, bytes(12)),  # an enum of 64 bits
            entry("bpf_lsm_y", 12, 0, 6),
        )
    )
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text))
    path.write_bytes(header + types + text)
    return path


def test_find(tmp_path: Path) -> None:
    file = write(tmp_path / "vmlinux")
    assert btf.find("btf_trace_x", btf.TYPEDEF, file) == 8
    assert btf.find("bpf_lsm_y", btf.FUNCTION, file) == 13


def test_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "vmlinux")
    for name, kind in (("btf_trace_", btf.TYPEDEF), ("nothing", btf.TYPEDEF), ("task", btf.FUNCTION)):
        with pytest.raises(LookupError, match=f"has no {name}"):
            btf.find(name, kind, file)
    with pytest.raises(LookupError, match="does not describe"):
        btf.find("btf_trace_x", btf.TYPEDEF, tmp_path / "none")
