# SPDX-License-Identifier: Apache-2.0
"""Where the time of a round goes, seen from the gateway.

PYTHONPATH=daemon:tests python tests/bench/round_time.py: a real SuperLink on loopback with TLS, two gateway
processes, and the example's ClientApp called in this process where guard and trainer would be. What is left
is Flower's server, the link and the gateway. Prints, asserts nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from federation.device import Device, Task
from homebound.demo.superlink import App, Operator, SuperLink, bundle, make_superlink
from homebound.records import Records
from homebound.trainer import app

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
DEVICES, ROUNDS = 2, 3
IDLE_SECONDS = 25.0
TICKS = os.sysconf("SC_CLK_TCK")


class Trainer:
    """The example's ClientApp on one part of the digits; notes how long each task took."""

    def __init__(self, installed: app.Installed, number: int, lock: threading.Lock) -> None:
        self._runner = app.Runner(installed, {"partition-id": number, "num-partitions": DEVICES})
        self._lock = lock
        self.seconds: dict[str, float] = {}

    def __call__(self, task: Task, records: Records) -> Records:
        began = time.monotonic()
        with self._lock:  # two devices share one interpreter here
            given = app.Task(task["task"], task["round"], task["message_type"], records, task["run_config"])
            answer = self._runner.run(given)
        self.seconds[task["task"]] = time.monotonic() - began
        return answer


def main() -> None:
    """Three rounds, then a quiet while."""
    with tempfile.TemporaryDirectory(prefix="homebound-bench-") as name:
        folder = Path(name)
        link = make_superlink(folder / "superlink")
        timed("SuperLink starts", link.start)
        try:
            measure(folder, link)
        finally:
            link.stop()


def measure(folder: Path, link: SuperLink) -> None:
    """Run, print, stop the devices."""
    example = bundle(DIGITS)
    section = {"address": link.address, "root_certificates": str(link.root_certificates)}
    settings = {"federation": section, "dial": "127.0.0.1", "port": link.port}
    installed, lock = app.load(DIGITS), threading.Lock()
    trainers = [Trainer(installed, number, lock) for number in range(DEVICES)]
    devices = [
        Device(folder / str(i), {**settings, "app": {"fab_sha256": example.fab_sha256}}, trainer)
        for i, trainer in enumerate(trainers)
    ]
    timed("gateways start and connect", lambda: start(devices))
    try:
        play(link, example, devices, trainers, folder / "results.jsonl")
        print_idle(devices[0])
    finally:
        for device in devices:
            device.stop()


def play(
    link: SuperLink, example: App, devices: Sequence[Device], trainers: Sequence[Trainer], results: Path
) -> None:
    """One run, and where its time went."""
    operator = Operator(link)
    began, wall = time.monotonic(), time.time()
    run = operator.start(example, {"num-server-rounds": ROUNDS, "results": str(results)})
    state = operator.wait(run, 120)
    ended = time.monotonic()
    operator.close()
    print(f"run: {state.outcome}, {ended - began:.2f} s in all")
    times = [json.loads(line)["time"] - wall for line in results.read_text().splitlines()]
    print(f"  ServerApp starts, until it has tested the first model {times[0]:7.2f} s")
    for number, (before, after) in enumerate(itertools.pairwise(times), 1):
        print(f"  round {number}                                               {after - before:7.2f} s")
    print(f"  ServerApp ends                                        {ended - began - times[-1]:7.2f} s")
    print_tasks(devices, trainers)
    print_bytes(devices)


def start(devices: Sequence[Device]) -> None:
    for device in devices:
        device.start()
    for device in devices:
        device.wait_for("connected")


def timed(words: str, step: Callable[[], None]) -> None:
    began = time.monotonic()
    step()
    print(f"{words}: {time.monotonic() - began:.2f} s")


def print_tasks(devices: Sequence[Device], trainers: Sequence[Trainer]) -> None:
    """Mean seconds of each part of a task: fetch, app, send; and the wait until the next one."""
    parts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for device, trainer in zip(devices, trainers, strict=True):
        declared, previous = device.of_type("declare"), 0.0
        acknowledged = {m["task"]: m["at"] for m in device.of_type("acknowledged")}
        for task in device.tasks:
            name, kind = task["task"], task["message_type"]
            first = next(m["at"] for m in declared if m["task"] == name)
            spent = trainer.seconds[name]
            if previous:
                parts[kind, "wait for it"].append(first - previous)
            parts[kind, "fetch"].append(task["at"] - first)
            parts[kind, "app"].append(spent)
            parts[kind, "send"].append(acknowledged[name] - task["at"] - spent)
            previous = acknowledged[name]
    print("mean of a task, seconds")
    for (kind, part), values in sorted(parts.items()):
        print(f"  {kind:9} {part:12} {mean(values):7.3f}   (most {max(values):.3f})")


def print_bytes(devices: Sequence[Device]) -> None:
    """What one device sent, by kind of request, as announced (TCP payload, TLS included)."""
    sums: dict[str, list[int]] = defaultdict(list)
    for message in devices[0].of_type("declare"):
        sums[message["request"]].append(message["stream_bytes"])
    print("bytes sent by one device")
    for kind, values in sorted(sums.items()):
        print(f"  {kind:12} {len(values):4} x {mean(values):8.0f} = {sum(values)}")


def print_idle(device: Device) -> None:
    """What a gateway costs when there is nothing to do."""
    assert device.process is not None
    pid = device.process.pid
    time.sleep(IDLE_SECONDS)
    before, cpu = device.declared(), ticks(pid)
    time.sleep(IDLE_SECONDS)
    sent, spent = device.declared() - before, (ticks(pid) - cpu) / TICKS
    rollup = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    share = 100 * spent / IDLE_SECONDS
    print(f"idle, a poll a second: {sent / IDLE_SECONDS:.0f} bytes/s, {share:.2f} % of a CPU")
    print(f"gateway, one of {DEVICES} on this host: {int(rollup['Pss:']) / 1024:.1f} MB PSS")


def ticks(pid: int) -> int:
    """User and system time of a process. proc_pid_stat(5)"""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main()
