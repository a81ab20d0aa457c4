# SPDX-License-Identifier: Apache-2.0
"""What the text of a BPF program says of itself before anybody compiles it. Pure; imports nothing of ours."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIX = ".bpf.c"
# As clang-format writes it: the section on a line of its own, then the function.
PROGRAM = re.compile(r'^SEC\("([^"]+)"\)\s+int (\w+)\(', re.MULTILINE)
LICENSE = re.compile(r'^char \w+\[\] SEC\("license"\) = "([^"]+)";$', re.MULTILINE)
# What a file includes that reads the kernel's own structs: their layouts come from BTF, when libbpf loads.
NEEDS_TYPES = re.compile(r'^#include "include/(task|file|lsm).bpf.h"$', re.MULTILINE)
TYPES_WANTED = "reads structs of the kernel, which libbpf can do and bcc cannot"


def names(text: str) -> list[str]:
    """The programs of a file."""
    return [name for _, name in PROGRAM.findall(text)]


def only_for_libbpf(folder: Path) -> set[str]:
    """Programs below a folder that bcc cannot make, whatever the kernel."""
    texts = (path.read_text() for path in folder.glob(f"*{SUFFIX}"))
    return {name for text in texts if NEEDS_TYPES.search(text) for name in names(text)}
