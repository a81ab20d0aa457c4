# SPDX-License-Identifier: Apache-2.0
"""kernel/cgroups.py and kernel/usage.py over a fake tree: where v2 is, what was used, bounded waits.

The real kernel is asked in tests/kernel/test_cgroups.py.
"""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from homebound.errors import ServiceUnavailable
from homebound.kernel import usage
from homebound.kernel.cgroups import Cgroup, CgroupError, mount, own

PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "33 31 0:29 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
BOUND = "29 23 0:26 /box /srv/box\\040one/cgroup rw - cgroup2 cgroup2 rw\n"

FILES = {
    "cgroup.procs": "",
    "cgroup.freeze": "0",
    "cgroup.kill": "",
    "cgroup.controllers": "cpu io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
    "memory.current": "1048576\n",
    "io.stat": "8:0 rbytes=4096 wbytes=100 rios=1 wios=1\n8:16 rbytes=4 wbytes=11\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0 total=9\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=250000\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=23\n",
}


def tree(folder: Path, without: tuple[str, ...] = ()) -> Cgroup:
    """A cgroup folder made of plain files; its clock moves 10 ms each time it is asked."""
    path = folder / "homebound" / "trainer"
    path.mkdir(parents=True)
    for name, text in FILES.items():
        if name not in without:
            (path / name).write_text(text)
    ticks = itertools.count()
    return Cgroup(path, folder, clock=lambda: next(ticks) * 0.01)


def fake_proc(folder: Path, mountinfo: str = PURE, cgroup: str = "0::/\n") -> Path:
    (folder / "self").mkdir()
    (folder / "self/mountinfo").write_text(mountinfo)
    (folder / "self/cgroup").write_text(cgroup)
    return folder


@pytest.mark.parametrize(
    ("mountinfo", "place"),
    [
        (PURE, "/sys/fs/cgroup"),
        (HYBRID, "/sys/fs/cgroup/unified"),
        (BOUND, "/srv/box one/cgroup"),
        (BOUND + PURE, "/sys/fs/cgroup"),
    ],
)
def test_the_mount_is_found(tmp_path: Path, mountinfo: str, place: str) -> None:
    assert mount(fake_proc(tmp_path, mountinfo)) == Path(place)


def test_without_cgroup2_the_error_says_how_to_mount_it(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, HYBRID.rsplit("41", 1)[0], "1:cpu:/\n")
    with pytest.raises(ServiceUnavailable, match="not mounted") as caught:
        mount(proc)
    assert "mount -t cgroup2" in caught.value.hint
    with pytest.raises(ServiceUnavailable, match="no cgroup v2"):
        own(proc)


def test_own_takes_the_v2_line(tmp_path: Path) -> None:
    assert own(fake_proc(tmp_path, cgroup="9:memory:/old\n0::/system.slice/a.service\n")) == (
        "/system.slice/a.service"
    )


def test_own_outside_of_the_namespace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="namespace"):
        own(fake_proc(tmp_path, cgroup="0::/../../other\n"))


def test_usage_comes_from_the_cgroup(tmp_path: Path) -> None:
    got = tree(tmp_path).usage()
    assert got.cpu == usage.Cpu(2.5, "cgroup")
    assert got.memory == usage.Memory(1048576, "cgroup")
    assert got.io == usage.Io(4100, 111, "cgroup")
    assert got.pressure == usage.Pressure(1.5, 0.25, 23e-6, "cgroup")


def test_missing_controllers_fall_back_to_the_processes(tmp_path: Path) -> None:
    cgroup = tree(tmp_path, without=("memory.current", "io.stat", "cpu.stat"))
    (cgroup.path / "cgroup.procs").write_text(f"0\n{os.getpid()}\n")
    got = cgroup.usage()
    assert (got.cpu.source, got.memory.source, got.io.source) == ("psutil", "psutil", "psutil")
    assert got.memory.bytes is not None
    assert got.memory.bytes > 1_000_000  # this very process: a Python
    assert got.cpu.seconds is not None
    assert got.cpu.seconds > 0
    assert got.pressure.source == "cgroup"


def test_without_pressure_files_it_is_absent_and_not_zero(tmp_path: Path) -> None:
    cgroup = tree(tmp_path, without=("cpu.pressure", "memory.pressure", "io.pressure"))
    assert cgroup.pressure() == usage.Pressure(None, None, None, "absent")


def test_open_files_read_the_same_without_the_folder(tmp_path: Path) -> None:
    cgroup = tree(tmp_path, without=("memory.current",))
    fds = cgroup.open_files()
    try:
        files = usage.OpenFiles(fds)
        got = files.usage()
        assert got.cpu == cgroup.cpu()
        assert got.memory == usage.Memory(None, "absent")
        assert got.pressure == cgroup.pressure()
        assert files.freeze()
        assert files.kill()
        assert (cgroup.path / "cgroup.freeze").read_text() == "1"
        assert (cgroup.path / "cgroup.kill").read_text() == "1"
    finally:
        for fd in fds.values():
            os.close(fd)
    assert not files.freeze()
    assert not usage.OpenFiles({}).kill()


def test_freeze_waits_for_the_kernel_to_say_so(tmp_path: Path) -> None:
    cgroup = Cgroup(tree(tmp_path).path, tmp_path)
    events = cgroup.path / "cgroup.events"
    late = threading.Timer(0.12, events.write_text, ["populated 1\nfrozen 1\n"])
    late.start()
    cgroup.freeze()
    late.join()
    assert cgroup.is_frozen()
    assert (cgroup.path / "cgroup.freeze").read_text() == "1"


def test_a_freeze_that_never_comes_ends_in_an_error(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    with pytest.raises(CgroupError, match=r"did not freeze within 0\.1 s"):
        cgroup.freeze(seconds=0.1)
    cgroup.thaw(seconds=0.1)  # the control: this state is what the tree says


def test_kill_gives_up_on_a_task_that_hangs(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    with pytest.raises(CgroupError, match="outlived SIGKILL"):
        cgroup.kill(seconds=0.1)
    with pytest.raises(CgroupError, match="outlived SIGKILL"):
        cgroup.kill_each(seconds=0.1)
    (cgroup.path / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    cgroup.kill(seconds=0.1)
    assert (cgroup.path / "cgroup.kill").read_text() == "1"


def test_level_and_id(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    assert cgroup.level() == 2
    assert cgroup.child("a").level() == 3
    assert cgroup.id() == cgroup.path.stat().st_ino
    (tmp_path / "cgroup.events").write_text("populated 1\n")
    with pytest.raises(CgroupError, match="depth"):
        cgroup.level()


def test_settings_of_a_missing_controller_are_told_apart(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    (cgroup.path / "memory.max").write_text("max")
    assert cgroup.set("memory.max", "4096")
    assert (cgroup.path / "memory.max").read_text() == "4096"
    assert not cgroup.set("memory.swap.max", "0")
    assert not (cgroup.path / "memory.swap.max").exists()


def test_delegate_says_which_controllers_are_here(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    assert cgroup.delegate(("cpu", "memory", "hugetlb")) == ("cpu", "memory")
    (cgroup.path / "cgroup.controllers").write_text("")
    assert cgroup.delegate() == ()


def test_withdraw_names_what_it_takes_back(tmp_path: Path) -> None:
    """Nothing written is nothing taken: cgroup.subtree_control wants a minus and a name."""
    cgroup = tree(tmp_path)
    control = cgroup.path / "cgroup.subtree_control"
    control.write_text("memory\n")
    cgroup.withdraw()
    assert control.read_text() == "-memory"


def test_a_missing_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    cgroup = tree(tmp_path, without=("cgroup.freeze",))
    with pytest.raises(CgroupError, match=r"cgroup\.freeze"):
        cgroup.freeze()


def test_remove_retries_while_it_is_busy(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path / "busy", tmp_path)
    cgroup.make()
    held = cgroup.path / "file"
    held.write_text("")
    late = threading.Timer(0.1, held.unlink)
    late.start()
    cgroup.remove()
    late.join()
    assert not cgroup.path.exists()
    cgroup.remove()  # what is gone is gone


def test_remove_is_bounded(tmp_path: Path) -> None:
    cgroup = tree(tmp_path)
    with pytest.raises(CgroupError, match="cannot remove"):
        cgroup.remove(seconds=0.05)
