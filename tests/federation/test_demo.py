# SPDX-License-Identifier: Apache-2.0
"""The demo as a person starts it: it learns, nothing gets out, the books balance, nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from daemon.rig import until
from homebound.demo.leak import DOZEN
from homebound.kernel import cgroups

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

# The accuracy that the shipped clip norm and noise must still allow with two devices and three rounds.
WANTED_ACCURACY = 0.90
UP_SECONDS, GONE_SECONDS = 60.0, 20.0


def left_behind() -> set[str]:
    pins, tree = Path("/sys/fs/bpf/homebound"), cgroups.mount() / "homebound"
    folders = [folder for top in (pins, tree) if top.is_dir() for folder in top.iterdir()]
    return {str(path) for path in folders if path.name.startswith("demo-")}


def test_the_demo_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    words = [
        sys.executable,
        "-m",
        "homebound",
        "demo",
        "--devices",
        "2",
        "--rounds",
        "3",
        "--json",
        str(file),
    ]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(file.read_text())
    assert document["schema"] == 1
    assert [entry["round"] for entry in document["rounds"]] == [1, 2, 3]
    assert document["final_accuracy"] == document["rounds"][-1]["accuracy"] >= WANTED_ACCURACY
    assert all(entry["released_bytes"] > 0 for entry in document["rounds"])
    assert document["unaccounted_bytes"] == 0
    assert all(book["balanced"] and book["kernel_stream_bytes"] > 0 for book in document["books"])
    channels = {channel["name"]: channel for channel in document["channels"]}
    tried = [name for name in DOZEN if channels[name]["control"] == "passed"]
    assert len(tried) >= 11
    assert all(channels[name]["blocked"] and channels[name]["wall"] for name in tried)
    assert all(channels[name]["counted"] for name in tried)
    for name, device in document["roles"].items():
        assert device["trainer"]["transmit_bytes"] == 0
        assert device["gateway"]["transmit_bytes"] > 0
        assert ("leaky" in name) == (device["trainer"]["denied"] > 0)
    assert all(document["walls"][wall] for wall in ("namespaces", "seccomp", "cgroup-bpf"))
    assert "Nothing got out" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert left_behind() == set()


def test_a_killed_demo_takes_along_what_it_started(tmp_path: Path) -> None:
    """As a terminal that is closed does, or the OOM killer: devices stop as if they were told to."""
    words = [sys.executable, "-m", "homebound", "demo", "--devices", "1", "--rounds", "1"]
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until("the device's roles", lambda: left_behind() != set(), UP_SECONDS)
        started = psutil.Process(demo.pid).children(recursive=True)
        ran = {command(process) for process in started}
        assert {"flower-superlink", "homebound.supervisor"} <= ran
    finally:
        demo.kill()
        demo.wait()
    _, alive = psutil.wait_procs(started, GONE_SECONDS)
    assert [command(process) for process in alive] == []
    assert left_behind() == set()


def command(process: psutil.Process) -> str:
    """What of ours or of Flower's it is; "" for anything else."""
    with suppress(psutil.Error):
        for word in process.cmdline():
            if word.startswith("homebound.") or Path(word).name.startswith("flower-"):
                return Path(word).name
    return ""
