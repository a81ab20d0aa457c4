# SPDX-License-Identifier: Apache-2.0
"""Facts out of fake trees: what is read is what is there, and what is missing is told, not guessed."""

from __future__ import annotations

from pathlib import Path

from homebound.kernel import features

MOUNTS = """\
24 30 0:22 / /proc rw,nosuid - proc proc rw
31 24 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
32 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
33 24 0:27 / /mnt/with\\040space rw - cgroup2 none rw
"""


def test_cgroup2_mounts(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(MOUNTS)
    assert features.cgroup2_mounts(tmp_path) == (
        Path("/sys/fs/cgroup/unified"),
        Path("/mnt/with space"),
    )
    (tmp_path / "self/mountinfo").write_text(MOUNTS.splitlines()[0])
    assert features.cgroup2_mounts(tmp_path) == ()


def test_btf(tmp_path: Path) -> None:
    assert not features.btf(tmp_path).present
    assert "No such file" in features.btf(tmp_path).detail
    (tmp_path / "kernel/btf").mkdir(parents=True)
    for content, present in ((b"\x9f\xeb\x01", True), (b"\xeb\x9f\x01", True), (b"", False), (b"ELF", False)):
        (tmp_path / "kernel/btf/vmlinux").write_bytes(content)
        assert features.btf(tmp_path).present is present


def test_what_is_counted_for_each_thread(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    for look, name, option in (
        (features.sched_info, "schedstat", "CONFIG_SCHED_INFO"),
        (features.task_io, "io", "CONFIG_TASK_IO_ACCOUNTING"),
    ):
        assert not look(tmp_path).present
        assert option in look(tmp_path).detail
        (tmp_path / "self" / name).write_text("0 0 0\n")
        assert look(tmp_path).present


def test_lsm(tmp_path: Path) -> None:
    assert features.lsm(tmp_path) is None
    (tmp_path / "kernel/security").mkdir(parents=True)
    (tmp_path / "kernel/security/lsm").write_text("lockdown,capability,landlock,yama,bpf\n")
    assert features.lsm(tmp_path) == ("lockdown", "capability", "landlock", "yama", "bpf")
