# SPDX-License-Identifier: Apache-2.0
"""What a host lets out by itself is read from its own files; each fault is seen, and its absence, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from homebound.cli.hostleaks import REMOTE, look

MOUNTS = """22 1 0:5 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / /proc rw,nosuid - proc proc rw{hidepid}
24 22 0:40 / /srv/data rw - {kind} server:/data rw
25 22 0:41 / /srv/with\\040space rw - nfs4 server:/x rw
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A host that has nothing of it."""
    for folder in ("self", "sys/debug"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "self/mountinfo").write_text(MOUNTS.format(hidepid=",hidepid=invisible", kind="xfs"))
    (tmp_path / "sys/debug/exception-trace").write_text("0\n")
    (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n")
    return tmp_path


def open_holes(proc: Path, data: str = "/srv/data/set") -> set[str]:
    return {hole.name for hole in look(Path(data), proc) if not hole.closed}


def test_a_host_without_any(proc: Path) -> None:
    assert open_holes(proc) == set()
    assert len(list(look(Path("/srv/data"), proc))) == 4
    assert len(list(look(None, proc))) == 3


def test_names_that_every_user_sees(proc: Path) -> None:
    (proc / "self/mountinfo").write_text(MOUNTS.format(hidepid="", kind="xfs"))
    assert open_holes(proc) == {"process names"}


def test_crash_lines(proc: Path) -> None:
    (proc / "sys/debug/exception-trace").write_text("1\n")
    assert open_holes(proc) == {"crash lines"}
    (proc / "sys/debug/exception-trace").unlink()
    assert open_holes(proc) == set()


def test_swap(proc: Path) -> None:
    (proc / "swaps").write_text("Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
    assert open_holes(proc) == {"swap"}
    assert "/dev/zram0" in next(hole.fact for hole in look(None, proc) if hole.name == "swap")


@pytest.mark.parametrize("kind", [*sorted(REMOTE), "fuse.sshfs"])
def test_data_on_another_host(proc: Path, kind: str) -> None:
    (proc / "self/mountinfo").write_text(MOUNTS.format(hidepid=",hidepid=2", kind=kind))
    assert open_holes(proc) == {"data on this host"}
    assert open_holes(proc, "/srv/elsewhere") == set()
    assert open_holes(proc, "/srv/with space/set") == {"data on this host"}


def test_the_innermost_mount_counts(proc: Path) -> None:
    assert open_holes(proc, "/srv/data") == set()
    assert open_holes(proc, "/srv/database") == set()


def test_this_host_can_be_looked_at() -> None:
    assert {hole.name for hole in look(Path("/tmp"))} == {
        *("process names", "crash lines", "swap", "data on this host")
    }
