# SPDX-License-Identifier: Apache-2.0
"""datafolder.py: what makes a data folder unfit, each with a fit one beside it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from homebound.config.datafolder import Reader, audit

STRANGER = Reader(uid=60999, gid=60999)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fit folder below one that no stranger may enter, as the trainer's is below root's."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data = closed / "data"
    (data / "deep").mkdir(parents=True)
    (data / "one").write_text("1")
    (data / "deep" / "two").write_text("2")
    (data / "link").symlink_to("deep/two")
    for path in (data, data / "deep"):
        path.chmod(0o755)
    for path in (data / "one", data / "deep" / "two"):
        path.chmod(0o644)
    return data


def test_a_fit_folder_has_no_finding(folder: Path) -> None:
    assert audit(folder) == ()


def test_missing(tmp_path: Path) -> None:
    (finding,) = audit(tmp_path / "nowhere")
    assert finding.what == "does not exist"
    assert finding.hint


def test_not_a_folder(folder: Path) -> None:
    (finding,) = audit(folder / "one")
    assert finding.what == "is not a folder"


def test_empty_but_for_folders(tmp_path: Path) -> None:
    (tmp_path / "sub" / "sub").mkdir(parents=True)
    (finding,) = audit(tmp_path)
    assert finding.what == "holds no file"


def link_out(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def link_up(path: Path) -> None:
    path.symlink_to("../../..")


def link_absolute(path: Path) -> None:
    path.symlink_to(path.parent.parent / "one")


def bound_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the whole path may be longer than a socket address
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (link_out, "is a link that leads out of the folder"),
        (link_up, "is a link that leads out of the folder"),
        (link_absolute, "is a link with an absolute path"),
        (os.mkfifo, "is a FIFO, which leads to another process"),
        (bound_socket, "is a socket, which leads to another process"),
    ],
)
def test_ways_out_are_found_at_any_depth(folder: Path, plant: Callable[[Path], None], what: str) -> None:
    plant(folder / "deep" / "planted")
    (finding,) = audit(folder)
    assert (finding.path, finding.what) == ("deep/planted", what)
    assert finding.hint


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "what"), [(stat.S_IFCHR, "is a character device"), (stat.S_IFBLK, "is a block device")]
)
def test_device_nodes(folder: Path, kind: int, what: str) -> None:
    try:
        os.mknod(folder / "node", kind | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this host lets not even root make a device node")
    (finding,) = audit(folder)
    assert (finding.path, finding.what) == ("node", what)


def test_a_loop_of_links_ends(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    (folder / "round").symlink_to(".")
    assert audit(folder) == ()


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert audit(tmp_path / "alias") == ()


def test_names_cannot_move_the_cursor(folder: Path) -> None:
    os.mkfifo(folder / "x\x1b[31m\udcff")
    (finding,) = audit(folder)
    assert finding.path.isprintable()


def test_many_findings_are_counted(folder: Path) -> None:
    for number in range(23):
        os.mkfifo(folder / f"fifo{number:02}")
    findings = audit(folder, most=5)
    assert len(findings) == 6
    assert findings[-1].what == "and 18 more like these"


@pytest.mark.root
def test_a_stranger_can_read_a_fit_folder_whatever_lies_above(folder: Path) -> None:
    assert audit(folder, STRANGER) == ()


@pytest.mark.root
@pytest.mark.parametrize(("path", "mode"), [("one", 0o600), ("deep", 0o700), ("deep/two", 0o640)])
def test_what_the_trainer_cannot_read_is_found_by_trying(folder: Path, path: str, mode: int) -> None:
    (folder / path).chmod(mode)
    assert audit(folder) == ()  # root can
    findings = audit(folder, STRANGER)
    assert path in {finding.path for finding in findings}
    assert all("cannot be read by the trainer" in finding.what for finding in findings)
    assert "60999" in findings[0].hint


@pytest.mark.root
def test_a_group_opens_it(folder: Path) -> None:
    (folder / "one").chmod(0o640)
    os.chown(folder / "one", 0, 60998)
    assert len(audit(folder, STRANGER)) == 1
    assert audit(folder, Reader(uid=60999, gid=60999, groups=(60998,))) == ()


@pytest.mark.root
def test_the_folder_itself_closed(folder: Path) -> None:
    folder.chmod(0o700)
    (finding,) = audit(folder, STRANGER)
    assert finding.path == ""


@pytest.mark.root
def test_a_link_to_nothing(folder: Path) -> None:
    (folder / "dangling").symlink_to("nothing")
    (finding,) = audit(folder, STRANGER)
    assert finding.path == "dangling"
    assert "link" in finding.hint


@pytest.mark.root
def test_the_trial_changes_nothing_of_ours(folder: Path) -> None:
    def ours() -> tuple[int, list[int], Path, int]:
        return os.getuid(), os.getgroups(), Path.cwd(), len(list(Path("/proc/self/fd").iterdir()))

    before = ours()
    audit(folder, STRANGER)
    assert ours() == before
