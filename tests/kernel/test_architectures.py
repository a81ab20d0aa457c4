# SPDX-License-Identifier: Apache-2.0
"""arm64, as far as another machine can tell: the programs build for it, and no table leaves it out.

That they load and hold there was not seen; docs/install.md says so.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import ROOT
from homebound.kernel import bpf, features, refusals
from homebound.leaktest import target
from homebound.rooms import canary

BOTH = {"x86_64", "aarch64"}
EM_BPF, LITTLE_ENDIAN, SIXTY_FOUR = 247, 1, 2  # elf(5)
TABLES: Mapping[str, Mapping[str, object]] = {
    "bpf": bpf.NUMBERS,
    "getppid": features.GETPPID,
    "refusals": refusals.MACHINES,
    "canary keyctl": canary.SYS_KEYCTL,
    "canary getpriority": canary.SYS_GETPRIORITY,
    **{f"target {name}": table for name, table in target.CALLS.items()},
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_numbers_has_both(name: str) -> None:
    assert TABLES[name].keys() >= BOTH


def test_the_programs_build_for_arm64(tmp_path: Path) -> None:
    words = ["make", "-s", "-C", str(ROOT / "bpf"), "ARCH=arm64"]
    subprocess.run([*words, f"OUT={tmp_path / 'objects'}", f"TEXT={tmp_path / 'text'}"], check=True)
    built = {path.name: path.read_bytes() for path in (tmp_path / "objects").glob("*.o")}
    assert built.keys() == {path.name.replace(".c", ".o") for path in (ROOT / "bpf").glob("*.bpf.c")}
    for name, content in built.items():
        assert content[:6] == b"\x7fELF" + bytes([SIXTY_FOUR, LITTLE_ENDIAN]), name
        assert struct.unpack_from("<H", content, 18) == (EM_BPF,), name


def test_the_built_objects_name_no_folder_of_the_builder(tmp_path: Path) -> None:
    """The compiler would write it beside the line numbers, and each builder's packages would differ."""
    control, source = tmp_path / "control.o", "int main(void) { return 0; }"
    words = ["clang", "-target", "bpf", "-g", "-c", "-x", "c", "-", "-o", str(control)]
    subprocess.run(words, input=source, text=True, check=True, cwd=ROOT)
    assert os.fsencode(ROOT) in control.read_bytes()
    built = sorted((ROOT / "daemon/homebound/bpf_objects").glob("*.o"))
    assert built
    assert [path.name for path in built if os.fsencode(ROOT) in path.read_bytes()] == []
