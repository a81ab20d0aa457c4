# SPDX-License-Identifier: Apache-2.0
"""The trainer's bounds: how many tasks, how much memory and processor time, and what keeps them on this host.

A controller that is missing in the trainer's cgroup is told, not assumed: launch.limits has what takes its
place, and for processor time nothing does. May import: settings, kernel.cgroups.
Source: cgroup-v2.rst (cpu.max, memory.max, memory.oom.group, pids.max).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homebound.kernel.cgroups import Cgroup
from homebound.settings import TrainerSettings

# The kernel's own default. A quota is per this many microseconds.
CPU_PERIOD = 100_000


def files(trainer: TrainerSettings) -> Mapping[str, str]:
    """What is to stand in which file of the trainer's cgroup. Pure."""
    quota = trainer.cpu_max_percent * CPU_PERIOD // 100
    return {
        "pids.max": str(trainer.tasks_max),
        "memory.max": str(trainer.memory_max_bytes or "max"),
        # One process of a training that is killed leaves a training that hangs.
        "memory.oom.group": "1" if trainer.memory_max_bytes else "0",
        "cpu.max": f"{quota or 'max'} {CPU_PERIOD}",
    }


def limit(cgroup: Cgroup, trainer: TrainerSettings) -> None:
    """Write them, as far as this host's cgroups have the controllers."""
    for name, text in files(trainer).items():
        cgroup.set(name, text)


def document(cgroup: Path, trainer: TrainerSettings) -> dict[str, dict[str, Any]]:
    """Each bound (0 is none), and by what it is kept where the cgroup lacks the controller."""
    instead = {"pids.max": "rlimit", "memory.max": "rlimit, for each process", "cpu.max": "nothing"}
    by = {name: "cgroup" if (cgroup / name).exists() else other for name, other in instead.items()}
    return {
        "tasks": {"max": trainer.tasks_max, "by": by["pids.max"]},
        "memory": {"max": trainer.memory_max_bytes, "by": by["memory.max"]},
        "cpu": {"max": trainer.cpu_max_percent, "by": by["cpu.max"]},
    }
