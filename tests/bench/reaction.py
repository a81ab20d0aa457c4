# SPDX-License-Identifier: Apache-2.0
"""Prints how fast an attempt is known and a verdict carried out, and what a flight of the canary costs.

sudo .venv/bin/python tests/bench/reaction.py: a real daemon, whose app tries to make sockets and notes when;
of kinds that break different rules, since a rule that is broken again is not another line at once. Aims:
attempt to metric and to journal under 100 ms, verdict to a frozen trainer under 50 ms, the canary under
300 ms of processor time. Asserts nothing.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "daemon")]
os.environ["PYTHONPATH"] = sys.path[1]

from daemon.rig import Daemon, is_up, until  # noqa: E402
from homebound.events import Role  # noqa: E402
from homebound.kernel import bpf  # noqa: E402
from homebound.leaktest.device import device as leaktest_device  # noqa: E402
from homebound.rooms import launch, roles  # noqa: E402
from leaks.devices import daemon  # noqa: E402
from leaks.trainers import write_app  # noqa: E402

LIVES, FALLS, FLIGHTS = 4, 5, 5
# Family and kind by number: stream, datagram, raw, packet, vsock, unix, netlink, other.
KINDS = ((2, 1), (2, 2), (2, 3), (17, 3), (40, 1), (1, 1), (16, 3), (31, 1))
OVER = "attempts over"
AIM_KNOWN, AIM_FROZEN, AIM_CANARY = 100.0, 50.0, 300.0
USERS_BASE = 60600
# The trainer is busy besides, so that it is not frozen in its sleep.
APP = f"""
import socket, threading, time
def burn():
    while True:
        sum(range(1000))
def attempt():
    time.sleep(2)
    for family, kind in {KINDS}:
        began = time.monotonic_ns()
        try:
            socket.socket(family, kind).close()
        except OSError:
            print("attempt", began, flush=True)
        time.sleep(0.37)
    print("{OVER}", flush=True)
for target in (burn, burn, attempt):
    threading.Thread(target=target, daemon=True).start()
"""


@dataclass
class Looker:
    """Looks at one thing again and again in a thread of its own, and notes when it changed."""

    look: Callable[[], float]
    pause: float
    changes: list[tuple[int, float]] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        last = 0.0
        while not self.ended:
            with suppress(OSError):
                seen = self.look()
                if seen != last:
                    self.changes.append((time.monotonic_ns(), seen))
                    last = seen
            time.sleep(self.pause)

    def end(self) -> list[tuple[int, float]]:
        self.ended = True
        self.thread.join()
        return self.changes


def violations(port: int) -> float:
    """All attempts of the trainer, as Prometheus would see them now."""
    total = 0.0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("homebound_violations_total") and "trainer" in line:
                total += float(line.split()[-1])
    return total


def reactions(folder: Path) -> None:
    """Attempt to metric, attempt to journal."""
    known: dict[str, list[float]] = {"journal": [], "metric": []}
    for number in range(LIVES):
        place = folder / str(number)
        place.mkdir(mode=0o755)
        for name, found in zip(known, reaction(place), strict=True):
            known[name] += found
    for name, found in known.items():
        show(f"attempt to {name}", found, AIM_KNOWN)


def reaction(folder: Path) -> tuple[list[float], list[float]]:
    """One life of the daemon: from attempts to lines, and to counts."""
    with daemon(folder, busy_app(folder)) as device:
        device.start()
        device.wait("the trainer", lambda status: is_up(status, "trainer"))
        lines = Looker(lambda: float(device.log.read_text().count("violation: the trainer")), 0.002)
        metric = Looker(lambda: violations(device.config["metrics"]["port"]), 0.005)
        until("all attempts", lambda: OVER in (device.state / "trainer.log").read_text(), 60.0)
        time.sleep(1.0)
        journal, metrics = lines.end(), metric.end()
        began = attempts(device)
    return delays(began, journal), delays(began, metrics)


def attempts(device: Daemon) -> list[int]:
    text = (device.state / "trainer.log").read_text()
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("attempt ")]


def delays(began: list[int], changes: list[tuple[int, float]]) -> list[float]:
    """Milliseconds from each attempt to the first change after it."""
    found = []
    for moment in began:
        later = [when for when, _ in changes if when >= moment]
        if later:
            found.append((later[0] - moment) / 1e6)
    return found


def falls(folder: Path) -> None:
    """The verdict on a canary that got out to a trainer that stands still or is gone."""
    found = []
    for number in range(FALLS):
        place = folder / str(number)
        place.mkdir(mode=0o755)
        with daemon(place, busy_app(place)) as device:
            device.config["canary"] = {"interval_seconds": 1.0}
            device.start()
            device.wait("the trainer", lambda status: is_up(status, "trainer"))
            events = device.cgroup / "trainer/cgroup.events"
            still = Looker(partial(is_still, events), 0.0)
            said = Looker(lambda: float("canary got out" in device.log.read_text()), 0.0005)
            link = bpf.open_pin(device.pins / "links/hb_sock_create")
            bpf.detach_link(link)
            os.close(link)
            device.wait("the bar", lambda status: status["state"] == "failed")
            verdicts, stops = said.end(), still.end()
        found.append((stops[0][0] - verdicts[0][0]) / 1e6)
    show("verdict to frozen trainer", found, AIM_FROZEN)


def is_still(events: Path) -> float:
    """1 when the kernel says that all tasks stand still, or that there are none."""
    text = events.read_text()
    return float("frozen 1" in text or "populated 0" in text)


def flights() -> None:
    """Processor time of one flight, by the kernel's count of its cgroup, and how long it takes."""
    with leaktest_device(USERS_BASE) as made:
        cgroup, spent, taken = made.instance.cgroup(Role.CANARY), [], []
        for _ in range(FLIGHTS):
            before, began = cgroup.cpu().seconds or 0.0, time.monotonic()
            trials = launch.try_walls(made.instance, roles.canary(made.user))
            spent.append(((cgroup.cpu().seconds or 0.0) - before) * 1000)
            taken.append((time.monotonic() - began) * 1000)
        print(f"canary: {len(trials)} trials, by {cgroup.cpu().source}")
    show("canary, processor time", spent, AIM_CANARY)
    show("canary, from start to end", taken)


def busy_app(folder: Path) -> Path:
    app = write_app(folder / "app")
    (app / "app.py").write_text((app / "app.py").read_text() + APP)
    return app


def show(name: str, figures: list[float], aim: float = 0.0) -> None:
    figures = sorted(figures)
    worst = figures[min(len(figures) - 1, int(len(figures) * 0.95))]
    text = f"{name}: median {statistics.median(figures):.1f} ms, 95 % under {worst:.1f} ms, n {len(figures)}"
    print(text + (f" (aim: under {aim:.0f} ms)" if aim else ""), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="homebound-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        flights()
        (folder / "reaction").mkdir(mode=0o755)
        reactions(folder / "reaction")
        falls(folder)


if __name__ == "__main__":
    main()
