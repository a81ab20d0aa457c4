# SPDX-License-Identifier: Apache-2.0
"""The figures that the README quotes: memory of an idle device by role, and what a round costs.

sudo .venv/bin/python tests/bench/figures.py: a real SuperLink on loopback and one real daemon. The same
ClientApp on the same data is called in a plain loop in this process, in turn with the rounds, so that both
meet the same machine. Prints, asserts nothing.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from homebound.apptree import tree_sha256
from homebound.demo.device import Device, Place
from homebound.demo.superlink import Operator, SuperLink, bundle, free_port, make_superlink
from homebound.kernel import cgroups
from homebound.recorddict import to_records
from homebound.trainer import app

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
ROUNDS = 7
SETTLE_SECONDS = 5.0
LEAN = ("supervisor", "watcher", "guard", "gateway")


def main() -> None:
    """Start one device, let it rest and measure, then let it work and measure."""
    with tempfile.TemporaryDirectory(prefix="homebound-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        words = [
            sys.executable,
            str(DIGITS / "make_data.py"),
            "--out",
            str(folder / "data"),
            "--devices",
            "1",
        ]
        subprocess.run(words, check=True, capture_output=True)
        link = make_superlink(folder / "superlink")
        example = bundle(DIGITS)
        place = Place(link.address, link.root_certificates, example.fab_sha256)
        device = Device(0, folder / "device", free_port(), place)
        try:
            link.start()
            device.install(folder / "data" / "device-0")
            began = time.monotonic()
            device.start(DIGITS, tree_sha256(DIGITS), {})
            device.wait_connected()
            print(f"daemon from start to waiting for tasks: {time.monotonic() - began:.2f} s")
            time.sleep(SETTLE_SECONDS)
            print_memory(device)
            print_rounds(folder, link, device)
        finally:
            device.stop()
            link.stop()


def print_memory(device: Device) -> None:
    """Proportional set size of every process in each role's cgroup; proc_pid_smaps_rollup in proc(5)."""
    root = cgroups.mount() / "homebound" / device.name
    sums = {}
    print("\n| role | PSS, MB | processes |\n|---|---|---|")
    for folder in sorted(root.iterdir()):
        pids = (folder / "cgroup.procs").read_text().split() if folder.is_dir() else []
        if pids:
            sums[folder.name] = sum(map(pss, pids)) / 1e6
            print(f"| {folder.name} | {sums[folder.name]:.1f} | {len(pids)} |")
    print(f"| all but the trainer | {sum(sums.get(role, 0.0) for role in LEAN):.1f} | |")


def pss(pid: str) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def print_rounds(folder: Path, link: SuperLink, device: Device) -> None:
    """Each round as the server saw it, against the app alone."""
    operator = Operator(link)
    results = folder / "results.jsonl"
    config: dict[str, Any] = {
        "num-server-rounds": ROUNDS,
        "min-nodes": 1,
        "fraction-evaluate": 0.0,
        "results": str(results),
        "test-data": str(folder / "data" / "test" / "digits.npz"),
    }
    run = operator.start(bundle(DIGITS), config)
    operator.wait(run, 120)
    operator.close()
    times = [json.loads(line)["time"] for line in results.read_text().splitlines()]
    rounds = [later - earlier for earlier, later in itertools.pairwise(times)]
    plain = plain_loop(device.data)
    median, alone = statistics.median(rounds), statistics.median(plain)
    print(f"\n{ROUNDS} rounds: median {median:.3f} s, worst {max(rounds):.3f} s")
    print(f"the same ClientApp in a plain loop: median {alone:.3f} s, worst {max(plain):.3f} s")
    print(f"overhead of a round (median - median): {median - alone:.3f} s")


def plain_loop(data: Path) -> list[float]:
    """Seconds of each call of the app with nothing around it. The first call warms up and is left out."""
    installed = app.load(DIGITS)
    runner = app.Runner(installed, {"data-path": str(data)})
    from digits.task import Net  # type: ignore[import-not-found] # on the path since the app was loaded
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    content = RecordDict({"arrays": ArrayRecord(Net().state_dict()), "config": ConfigRecord({})})
    task = app.Task("plain", 1, "train", to_records(content), {})
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.monotonic()
        runner.run(task)
        seconds.append(time.monotonic() - began)
    return seconds[1:]


if __name__ == "__main__":
    main()
