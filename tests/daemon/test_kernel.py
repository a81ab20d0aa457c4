# SPDX-License-Identifier: Apache-2.0
"""Kernels that lack something: the daemon says what and what to do, and starts nothing; or does without.

A part is taken away from the daemon alone: by a mount namespace, a bounding set, or a seccomp filter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon, after
from homebound.kernel import bpf, cgroups

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446  # the same numbers on every architecture


def without_call(number: int, error: int) -> Callable[[], None]:
    """A step for the child that makes a system call fail, for it and all that it starts. seccomp(2)"""
    instructions = (
        (LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
        (JUMP_EQUAL, 0, 1, number),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))

    def restrict() -> None:
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
            raise OSError(ctypes.get_errno(), f"no filter of {len(buffer)} bytes")

    return restrict


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(errno.EPERM, 77, "this kernel refuses BPF"), (errno.ENOSYS, 69, "this kernel has no BPF")],
    ids=["refused", "missing"],
)
def test_without_bpf(daemon: Daemon, error: int, status: int, words: str) -> None:
    daemon.start(prepare=without_call(bpf.NUMBERS[os.uname().machine], error))
    ended = daemon.ended()
    assert ended.status == status
    assert words in ended.fault


def test_without_the_right_to_bpf(daemon: Daemon) -> None:
    daemon.start(before=("setpriv", "--bounding-set=-bpf,-sys_admin"))
    ended = daemon.ended()
    assert ended.status == 77
    assert "this kernel refuses BPF" in ended.fault


def test_without_cgroup2(daemon: Daemon) -> None:
    daemon.start(before=after(f"umount {cgroups.mount()}"))
    ended = daemon.ended()
    assert ended.status == 69
    assert "cgroup v2 is not mounted" in ended.fault
    assert "mount -t cgroup2" in ended.fault


def test_cgroup2_that_cannot_be_written(daemon: Daemon) -> None:
    daemon.start(before=after(f"mount -o remount,ro,bind {cgroups.mount()}"))
    ended = daemon.ended()
    assert ended.status == 1
    assert "Read-only file system" in ended.fault


def test_without_bubblewrap(daemon: Daemon) -> None:
    daemon.start(before=after("mount --bind /dev/null /usr/bin/bwrap"))
    ended = daemon.ended()
    assert ended.status == 69
    assert "cannot start bwrap" in ended.fault
    assert "no wall was tried" in ended.fault


def test_without_landlock(daemon: Daemon, federation: Federation) -> None:
    """It is wanted, not required: the daemon works and says that this wall does not stand."""
    daemon.start(prepare=without_call(LANDLOCK_CREATE_RULESET, errno.ENOSYS))
    walls = daemon.wait_ready()["walls"]
    assert walls["landlock"]["active"] is False
    assert all(walls[name]["active"] for name in ("namespaces", "seccomp", "cgroup-bpf"))
    assert daemon.metrics()["homebound_kernel_feature feature=landlock"] == 0
    assert federation.ask(daemon.node)["outcome"] == "update"


def test_without_landlock_where_it_is_required(daemon: Daemon) -> None:
    daemon.config["require"] = ["namespaces", "seccomp", "cgroup-bpf", "landlock"]
    daemon.start(prepare=without_call(LANDLOCK_CREATE_RULESET, errno.ENOSYS))
    ended = daemon.ended()
    assert ended.status == 1
    assert "write_beside (landlock)" in ended.fault


def test_landlock_that_says_yes_and_does_nothing(daemon: Daemon) -> None:
    """Its version is there and restricting succeeds, but nothing is restricted: what counts is the trial."""
    daemon.start(prepare=without_call(LANDLOCK_RESTRICT_SELF, 0))
    status = daemon.wait_ready()
    assert status["walls"]["landlock"] == {"active": False, "detail": "got out: write_beside"}
    assert daemon.metrics()["homebound_kernel_feature feature=landlock"] == 0
    assert daemon.metrics()["homebound_wall_active wall=landlock"] == 0


def test_hybrid_or_pure_cgroups(daemon: Daemon, federation: Federation) -> None:
    """Whatever this host has: it works, and says where its figures and bounds come from."""
    controllers = (cgroups.mount() / "cgroup.controllers").read_text().split()
    print(f"cgroup v2 at {cgroups.mount()}, controllers: {' '.join(controllers) or 'none'}")
    daemon.config["trainer"]["memory_max_bytes"] = 1 << 30
    daemon.start()
    status = daemon.wait_ready()
    assert status["resource_source"]["memory"] == ("cgroup" if "memory" in controllers else "psutil")
    assert status["walls"]["no-swap"]["active"] is ("memory" in controllers)
    assert status["limits"]["memory"] == {
        "max": 1 << 30, "by": "cgroup" if "memory" in controllers else "rlimit, for each process"
    }  # fmt: skip
    assert status["limits"]["tasks"]["by"] == ("cgroup" if "pids" in controllers else "rlimit")
    limits = Path(f"/proc/{daemon.pid('trainer')}/limits").read_text()
    (data,) = (line.split()[3] for line in limits.splitlines() if line.startswith("Max data size"))
    assert data == ("unlimited" if "memory" in controllers else str(1 << 30))
    assert federation.ask(daemon.node)["outcome"] == "update"
