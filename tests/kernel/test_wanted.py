# SPDX-License-Identifier: Apache-2.0
"""Programs that only look on: what the kernel does not take falls out alone, with its reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homebound.events import Program
from homebound.kernel import bccchild, libbpf, prebuilt, probes
from homebound.kernel import pins as folders
from homebound.kernel.job import Job, Loader
from homebound.kernel.pins import LINKS
from homebound.kernel.probes import OBJECTS, SHARED_MAPS, Probes
from homebound.structs import SettingsRecord
from kernel.conftest import How
from kernel.rig import unattached

pytestmark = pytest.mark.root

BPF = Path(__file__).resolve().parents[2] / "bpf"
LEVEL = 2
# One program that loads and attaches, one that the verifier refuses, one for a tracepoint that no kernel has.
SOURCE = """
#include "include/report.bpf.h"
SEC("raw_tp/task_rename") int hb_good(void *ctx)
{ (void)ctx; hb_count_failure(HB_PROGRAM_EGRESS); return 0; }
SEC("raw_tp/task_rename") int hb_endless(void *ctx)
{ (void)ctx; volatile int *nothing = 0; return *nothing; }
SEC("raw_tp/homebound_no_such_point") int hb_nowhere(void *ctx)
{ (void)ctx; return 0; }
char _license[] SEC("license") = "Dual BSD/GPL";
"""
NAMES = ("hb_good", "hb_endless", "hb_nowhere")


@pytest.fixture
def pins(bpf_file_system: Path) -> Iterator[Path]:
    """Folders for pins, removed at the end."""
    folder = bpf_file_system / f"homebound-wanted-{os.getpid()}"
    folder.mkdir()
    yield folder
    folders.remove(folder, folders.FOLDERS)
    folder.rmdir()


@pytest.mark.parametrize("loader", ["libbpf", "bcc"])
def test_each_falls_out_alone(loader: Loader, pins: Path, device_cgroup: Path, tmp_path: Path) -> None:
    """Of three programs in one file the good one is attached, the others say why they are not."""
    sources, built = tmp_path / "bpf", tmp_path / "three.bpf.o"
    shutil.copytree(BPF, sources)
    (sources / "three.bpf.c").write_text(SOURCE)
    subprocess.run(["make", "-s", "-C", str(sources), f"OUT={tmp_path}", str(built)], check=True)
    fd = os.open(device_cgroup, os.O_RDONLY)
    try:
        job = Job({"three": ()}, SHARED_MAPS, {}, bytes(SettingsRecord()), fd, pins, ())
        if loader == "bcc":
            reasons = bccchild.load(sources, job)
        else:
            folders.make(pins)
            with libbpf.Library.open() as library:
                reasons = prebuilt._Source(library, built, job).load_each(NAMES)
    finally:
        os.close(fd)
    assert set(reasons) == {"hb_endless", "hb_nowhere"}
    assert all(reasons.values())
    assert [path.name for path in (pins / LINKS).iterdir()] == ["hb_good"]


def test_required_or_wanted_is_one_for_a_file() -> None:
    """No file mixes the two, every program is in one file, and the walls come first."""
    needs = [{program.is_required for program in programs} for programs in OBJECTS.values()]
    assert all(len(need) == 1 for need in needs)
    assert needs == sorted(needs, key=lambda need: True not in need)
    assert sorted(program for programs in OBJECTS.values() for program in programs) == list(Program)


def test_a_program_that_is_switched_off(
    objects: Path, bpf_file_system: Path, device_cgroup: Path, how: How
) -> None:
    """It is not loaded, says why, and nothing counts it as missing."""
    loaded = Probes.load(
        objects,
        device_cgroup,
        LEVEL,
        True,
        bpf_file_system / device_cgroup.name,
        off={Program.SYSCALL_EXIT: "off by a test"},
        **how,
    )
    try:
        states = {state.name: state for state in loaded.programs()}
        state = states["hb_syscall_exit"]
        assert (state.attached, state.need, state.reason) == (False, "off", "off by a test")
        assert probes.missing(loaded.programs()) == []
        assert list(unattached(loaded)) == ["hb_syscall_exit"]
    finally:
        loaded.remove()
