# SPDX-License-Identifier: Apache-2.0
"""docs/kernel.md has every program, with its need and its place, and claims no kernel that was not tried."""

from __future__ import annotations

import re
from pathlib import Path

from homebound.events import Program
from homebound.kernel.sources import PROGRAM

ROOT = Path(__file__).resolve().parents[3]
TRIED = {"6.1", "6.12", "6.18"}
NOT = ("not measured", "cannot", "not tried")


def table() -> dict[str, list[str]]:
    """The cells of each program's row."""
    lines = (ROOT / "docs/kernel.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `hb_")
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


def sections() -> dict[str, str]:
    """Where each program hangs, by the sources."""
    texts = [path.read_text() for path in (ROOT / "bpf").glob("*.bpf.c")]
    return {name: section for text in texts for section, name in PROGRAM.findall(text)}


def test_every_program_has_its_row() -> None:
    assert list(table()) == [program.bpf_name for program in Program]
    for program in Program:
        need, place = table()[program.bpf_name][:2]
        assert need == ("required" if program.is_required else "wanted"), program
        assert place == f"`{sections()[program.bpf_name]}`", program


def test_kernels_are_those_that_were_tried() -> None:
    """A cell is a list of kernels, or says that and why there is none."""
    for name, row in table().items():
        for cell in row[2:4]:
            kernels = set(re.findall(r"\b6\.\d+\b", cell))
            assert kernels <= TRIED, name
            assert kernels or cell.startswith(NOT), name
        assert re.match(r"\d+$", row[4]) or row[4].startswith(NOT), name
