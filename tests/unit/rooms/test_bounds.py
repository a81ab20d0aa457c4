# SPDX-License-Identifier: Apache-2.0
"""The trainer's bounds: what is written into its cgroup, and what is said where a controller is missing."""

from __future__ import annotations

from pathlib import Path

from homebound.kernel.cgroups import Cgroup
from homebound.rooms import bounds
from homebound.settings import TrainerSettings

BOUND = TrainerSettings(tasks_max=64, memory_max_bytes=1 << 30, cpu_max_percent=150)


def test_without_a_bound_the_kernel_has_its_own() -> None:
    assert bounds.files(TrainerSettings()) == {
        "pids.max": "512", "memory.max": "max", "memory.oom.group": "0", "cpu.max": "max 100000"
    }  # fmt: skip


def test_a_bound_is_what_the_kernel_reads() -> None:
    assert bounds.files(BOUND) == {
        "pids.max": "64", "memory.max": "1073741824", "memory.oom.group": "1", "cpu.max": "150000 100000"
    }  # fmt: skip
    # The least that the kernel takes is 1 ms, and the least that the setting takes is that.
    assert bounds.files(TrainerSettings(cpu_max_percent=1))["cpu.max"] == "1000 100000"


def test_only_what_the_cgroup_has_is_written_and_told(tmp_path: Path) -> None:
    (tmp_path / "pids.max").touch()
    bounds.limit(Cgroup(tmp_path, tmp_path), BOUND)
    assert [path.name for path in tmp_path.iterdir()] == ["pids.max"]
    assert (tmp_path / "pids.max").read_text() == "64"
    told = bounds.document(tmp_path, BOUND)
    assert {name: entry["by"] for name, entry in told.items()} == {
        "tasks": "cgroup", "memory": "rlimit, for each process", "cpu": "nothing"
    }  # fmt: skip
    assert told["cpu"]["max"] == 150
