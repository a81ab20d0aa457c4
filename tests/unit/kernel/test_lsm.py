# SPDX-License-Identifier: Apache-2.0
"""Which rights a role loses, as the page says it, and how a kernel without the hooks is told."""

from __future__ import annotations

from pathlib import Path

from homebound.kernel import lsm
from homebound.kernel.lsm import Loses, Right

PAGE = Path(__file__).resolve().parents[3] / "docs/architecture.md"
HEAD = "| right at a security hook | watcher | trainer | guard | gateway | canary |"
ROLES = ("WATCHER", "TRAINER", "GUARD", "GATEWAY", "CANARY")


def test_a_kernel_that_does_not_ask_bpf_programs(tmp_path: Path) -> None:
    assert "securityfs is not mounted" in lsm.lacking(tmp_path)
    (tmp_path / "kernel/security").mkdir(parents=True)
    modules = tmp_path / "kernel/security/lsm"
    modules.write_text("lockdown,capability,landlock,yama,apparmor")
    assert "(lockdown,capability,landlock,yama,apparmor)" in lsm.lacking(tmp_path)
    modules.write_text("lockdown,capability,bpf")
    assert lsm.lacking(tmp_path) == ""


def test_the_page_has_the_table() -> None:
    rows = PAGE.read_text().split(HEAD)[1].split("\n\n")[0].strip().splitlines()[1:]
    table = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        table[name.split("`")[1]] = ["lost" in cell for cell in cells]
    ours = {right.name.lower(): [bool(Loses[role] & right) for role in ROLES] for right in Right}
    assert table == ours


def test_memory_file_systems_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 0:21 / /dev/shm rw,nosuid shared:3 - tmpfs tmpfs rw\n"
        "24 22 0:5 / /dev rw - devtmpfs udev rw\n"
        "25 22 0:22 / /run/a\\040b rw - tmpfs tmpfs rw\n"
    )
    assert lsm.host_memory(tmp_path) == (Path("/dev/shm"), Path("/dev"), Path("/run/a b"))
