# SPDX-License-Identifier: Apache-2.0
"""Prints what a 100 MB update costs the guard: seconds and peak memory; and what it holds when idle.

A real guard process with the default settings. The gateway and the trainer are played by this one, so the
seconds hold their copying, too. Run: python tests/bench/guard_throughput.py [megabytes]
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "daemon")]
os.environ["PYTHONPATH"] = sys.path[1]

from homebound.channel import Frame  # noqa: E402
from homebound.records import Records  # noqa: E402
from unit.guard.rig import Rig, metrics, model, read, rig, write  # noqa: E402

LAYERS = 23
ROUNDS = 3
AIM_SECONDS, AIM_MEMORY, AIM_IDLE = 2.0, 4.0, 60.0


def memory(pid: int, field: str) -> float:
    """A line of /proc/PID/status in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1000 * 1.024
    raise LookupError(field)


def proportional(pid: int) -> float:
    """PSS in MB: shared pages counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000 * 1.024
    raise LookupError("Pss")


def processor(pid: int) -> float:
    """Seconds of processor time that a process has had. proc_pid_stat(5): utime and stime"""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def one_round(
    guard: Rig, trainer: socket.socket, before: Records, after: Records, name: str
) -> tuple[float, float, float]:
    """Seconds from the start of the task's frame to the trainer, of the update's to the release, and of
    processor time that the guard took for the latter: under load that is what can be compared."""
    start = time.perf_counter()
    sending = threading.Thread(target=guard.send_task, args=(before, name))
    sending.start()
    read(trainer)
    sending.join()
    guard.hear("started")
    middle, began = time.perf_counter(), processor(guard.process.pid)
    answers: list[Frame] = []
    reading = threading.Thread(target=lambda: answers.append(read(guard.gateway)))
    reading.start()
    write(trainer, "update", {"task": name}, after)
    reading.join()
    end, spent = time.perf_counter(), processor(guard.process.pid) - began
    guard.hear("released")
    assert answers[0].kind == "release"
    return middle - start, end - middle, spent


def main(megabytes: int) -> None:
    size = megabytes * 1_000_000 // 4 // LAYERS
    before = model(*(np.ones(size, np.float32) for _ in range(LAYERS)))
    after = model(*(np.full(size, 1.001, np.float32) for _ in range(LAYERS))) + metrics(num_examples=718)
    with tempfile.TemporaryDirectory() as state, rig(Path(state), timeout=600.0) as guard:
        pid = guard.process.pid
        trainer = guard.trainer()
        time.sleep(0.2)
        idle, share = memory(pid, "VmRSS"), proportional(pid)
        print(f"idle: {idle:.1f} MB resident, {share:.1f} MB PSS (aim {AIM_IDLE:.0f})")
        for number in range(ROUNDS):
            task, update, spent = one_round(guard, trainer, before, after, f"t{number}")
            peak = memory(pid, "VmHWM")
            print(f"task of {megabytes} MB through: {task:.2f} s")
            print(f"update of {megabytes} MB to its release: {update:.2f} s (aim {AIM_SECONDS:.0f})")
            print(f"of that the guard's own processor time: {spent:.2f} s")
            print(f"peak: {peak:.0f} MB, {peak / megabytes:.2f} x the update (aim {AIM_MEMORY:.0f})")
        time.sleep(0.2)
        print(f"idle again: {memory(pid, 'VmRSS'):.1f} MB resident")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
