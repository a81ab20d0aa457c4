# SPDX-License-Identifier: Apache-2.0
"""kernel/cgroups.py against the real kernel: a task that counts stops, goes on, and dies.

Needs root and a mounted cgroup2; makes one cgroup and removes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import reach
from homebound.kernel import usage
from homebound.kernel.cgroups import Cgroup, CgroupError, mount

pytestmark = pytest.mark.root

# Forks once, so that a kill has to reach a grandchild; both processes burn and count.
BUSY = "import os\nos.fork()\nwhile True:\n    sum(range(10000))\n"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(mount() / f"hb-test-{os.getpid()}")
    made.make()
    try:
        yield made
    finally:
        if made.path.exists():
            made.kill()
            made.remove()


@pytest.fixture
def busy(cgroup: Cgroup) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", BUSY], preexec_fn=lambda: cgroup.add(0))
    try:
        wait_for(lambda: len(cgroup.pids()) == 2)
        yield child
    finally:
        cgroup.thaw()
        cgroup.kill()
        child.wait()


def wait_for(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def spent(cgroup: Cgroup) -> float:
    seconds = cgroup.cpu().seconds
    assert seconds is not None
    return seconds


def test_a_frozen_cgroup_uses_no_time_and_a_thawed_one_does(
    cgroup: Cgroup, busy: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: spent(cgroup) > 0.05)
    cgroup.freeze()
    assert cgroup.is_frozen()
    frozen_at = spent(cgroup)
    time.sleep(0.3)
    assert spent(cgroup) == frozen_at
    cgroup.thaw()
    assert not cgroup.is_frozen()
    wait_for(lambda: spent(cgroup) > frozen_at)
    assert busy.poll() is None


def test_kill_reaches_every_task_even_a_frozen_one(cgroup: Cgroup, busy: subprocess.Popen[bytes]) -> None:
    assert busy.pid in cgroup.pids()
    cgroup.freeze()
    cgroup.kill()
    assert not cgroup.is_populated()
    assert busy.wait() == -9


def test_kill_without_the_kernel_file_does_the_same(cgroup: Cgroup, busy: subprocess.Popen[bytes]) -> None:
    cgroup.kill_each()
    assert cgroup.pids() == ()
    assert busy.wait() == -9


def test_an_empty_cgroup_freezes(cgroup: Cgroup) -> None:
    cgroup.freeze()
    assert cgroup.is_frozen()
    cgroup.thaw()
    assert not cgroup.is_frozen()


def test_a_child_below_a_frozen_parent_does_not_thaw(cgroup: Cgroup) -> None:
    below = cgroup.child("below")
    below.make()
    below.freeze()
    cgroup.freeze()
    with pytest.raises(CgroupError, match="did not thaw"):
        below.thaw(seconds=0.2)
    cgroup.thaw()
    below.thaw()


def test_usage_of_a_busy_cgroup(cgroup: Cgroup, busy: subprocess.Popen[bytes]) -> None:
    wait_for(lambda: spent(cgroup) > 0.05)
    got = cgroup.usage()
    assert got.cpu.source == usage.CGROUP
    assert got.memory.bytes is not None
    assert got.memory.bytes > 1_000_000
    assert got.memory.source == (usage.CGROUP if (cgroup.path / "memory.current").exists() else usage.PSUTIL)
    print(got)


def test_numbers_that_bpf_sees(cgroup: Cgroup) -> None:
    assert cgroup.id() == (cgroup.path).stat().st_ino
    assert cgroup.child("a").level() == cgroup.level() + 1
    assert cgroup.level() == len(cgroup.path.relative_to(mount()).parts)


def test_an_unprivileged_holder_of_descriptors_reads_freezes_and_kills(
    cgroup: Cgroup, busy: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: spent(cgroup) > 0.05)
    fds = cgroup.open_files()
    code = (
        "from homebound.kernel.usage import OpenFiles\n"
        f"files = OpenFiles({fds!r})\n"
        "assert files.usage().cpu.seconds > 0.05\n"
        "assert files.freeze() and files.kill()\n"
    )
    try:
        subprocess.run(
            reach.as_user(60601, [sys.executable, "-c", code]),
            pass_fds=tuple(fds.values()),
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
    finally:
        for fd in fds.values():
            os.close(fd)
    assert busy.wait() == -9
    wait_for(lambda: not cgroup.is_populated())


def test_remove_takes_what_lies_below(cgroup: Cgroup) -> None:
    cgroup.child("a").make()
    cgroup.child("a").child("b").make()
    cgroup.remove()
    assert not cgroup.path.exists()


def test_who_gave_controllers_may_come_back(cgroup: Cgroup) -> None:
    """A cgroup whose children have controllers takes no task (EBUSY) until it has taken them back."""
    below = cgroup.child("below")
    below.make()
    if not cgroup.delegate():
        pytest.skip("this host's cgroup v2 has no controllers")
    with subprocess.Popen(["sleep", "60"], preexec_fn=lambda: below.add(0)) as sleeper:
        try:
            with pytest.raises(CgroupError):
                cgroup.add(sleeper.pid)
            cgroup.withdraw()
            cgroup.add(sleeper.pid)
            assert (cgroup.path / "cgroup.procs").read_text().split() == [str(sleeper.pid)]
        finally:
            sleeper.kill()
