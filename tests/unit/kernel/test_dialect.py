# SPDX-License-Identifier: Apache-2.0
"""The C sources stay in the dialect that both loaders understand: what bcc would misread is found here."""

from __future__ import annotations

import re
from pathlib import Path

from homebound.kernel.sources import LICENSE, PROGRAM

BPF = Path(__file__).resolve().parents[3] / "bpf"
DIALECT = (BPF / "include/dialect.bpf.h").read_text()
TEXTS = {path.name: path.read_text() for path in [*BPF.glob("*.bpf.c"), *BPF.glob("include/*.h")]}
MAP = re.compile(r"^HB_(?:LOCKED_)?(?:MAP|RING)\((\w+),", re.MULTILINE)
# A function of the kernel and the map among its arguments.
CALL = re.compile(r"\b(bpf_\w+)\((?:[^;()]*,\s*)?&(\w+)\b")


def test_maps_are_declared_by_the_dialect() -> None:
    """A struct in the section .maps is a map for libbpf and nothing for bcc."""
    raw = [name for name, text in TEXTS.items() if 'SEC(".maps")' in text]
    assert raw == ["dialect.bpf.h"], "declare maps by HB_MAP, HB_LOCKED_MAP or HB_RING"


def test_functions_that_take_a_map_are_in_the_dialect() -> None:
    """Elsewhere the address of a map would be that of nothing."""
    maps = {name for text in TEXTS.values() for name in MAP.findall(text)}
    assert "traffic" in maps
    calls = {function for text in TEXTS.values() for function, name in CALL.findall(text) if name in maps}
    assert "bpf_map_lookup_elem" in calls
    known = set(re.findall(r"^#define (bpf_\w+)\(MAP,", DIALECT, re.MULTILINE))
    assert calls <= known, "give it its line in bpf/include/dialect.bpf.h"


def test_kernel_interface_comes_through_the_dialect() -> None:
    """libbpf's headers and bcc's own declare the same functions: only one of them at a time."""
    for name, text in TEXTS.items():
        if name != "dialect.bpf.h":
            assert not re.findall(
                r"^#include <(?:linux/bpf|bpf/bpf_helpers|bpf/bpf_endian)\.h>", text, re.MULTILINE
            ), name


def test_programs_are_written_so_that_they_are_found() -> None:
    """A section on its own line, then ``int``; every file that has programs names its licence."""
    for name, text in TEXTS.items():
        if not name.endswith(".bpf.c"):
            continue
        sections = [section for section in re.findall(r'SEC\("([^"]+)"\)', text) if section != "license"]
        assert [section for section, _ in PROGRAM.findall(text)] == sections, name
        assert bool(LICENSE.search(text)) == bool(sections), name
