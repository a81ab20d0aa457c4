# SPDX-License-Identifier: Apache-2.0
"""Between two rounds a guard is as small as before the first one."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import pytest

from unit.guard.rig import Rig, metrics, model, read, rig, write

LAYERS, NUMBERS = 12, 1_000_000
UPDATE_MB = LAYERS * NUMBERS * 4 / 1e6
SECONDS = 10.0


def resident(guard: Rig) -> float:
    """In MB. proc_pid_status(5)"""
    lines = Path(f"/proc/{guard.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no mallopt(3)")
def test_memory_of_an_update_goes_back(tmp_path: Path) -> None:
    """Without mallopt(3) a whole one stays."""
    before = model(*(np.zeros(NUMBERS, np.float32) for _ in range(LAYERS)))
    with rig(tmp_path, min_examples=0) as guard:
        first = resident(guard)
        trainer = guard.trainer()
        for number in range(2):
            guard.send_task(before, f"t{number}")
            read(trainer)
            guard.hear("started")
            write(trainer, "update", {"task": f"t{number}"}, before + metrics(num_examples=70))
            assert read(guard.gateway).kind == "release"
            guard.hear("released")
        deadline = time.monotonic() + SECONDS
        while (left := resident(guard) - first) > UPDATE_MB / 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left <= UPDATE_MB / 4, f"{left:.0f} MB more than before an update of {UPDATE_MB:.0f} MB"
