# SPDX-License-Identifier: Apache-2.0
"""A device whose app never stops trying to get out, who kills somebody, and who looks whether a byte left.

Receivers are on loopback. Beside the trainer there is a process below the device's cgroup that belongs to no
role and has no sandbox: the kernel programs alone hold it, so it shows a window that a restart would open.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from daemon.rig import Daemon, Document, command, is_up, until
from homebound.books import ledger
from homebound.events import Direction, Role, Traffic, TrafficKey, Verdict
from homebound.kernel import bpf, maps

HOOK = Path(__file__).parent / "hook"
ADDRESS = "127.0.0.1"
# Once at work, it tries every 20 ms for as long as it lives, also between rounds.
RESTLESS = """

def _restless(port: int) -> None:
    while True:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                with socket.socket(socket.AF_INET, kind) as sock:
                    sock.connect(("127.0.0.1", port))
                    sock.send(b"raw data")
            except OSError:
                pass
        time.sleep(0.02)


import threading
threading.Thread(target=_restless, args=({port},), daemon=True).start()
"""
SILENT = (Role.TRAINER, Role.GUARD, Role.CANARY, Role.NONE)
# Whoever is killed takes the trainer along within this; and nothing of a killed daemon runs longer.
UNWATCHED_SECONDS, GONE_SECONDS = 1.0, 5.0
PATIENCE_SECONDS = 120.0
SQUATTER_PAUSE = 0.001


class Receiver:
    """Two ports of one number, UDP and TCP; ``arrived`` counts what came."""

    def __init__(self) -> None:
        self.stream = socket.create_server((ADDRESS, 0))
        self.port: int = self.stream.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind((ADDRESS, self.port))
        self.arrived = 0

    def look(self) -> int:
        """How much has arrived by now, since the last look as well."""
        while ready := select.select([self.stream, self.datagrams], [], [], 0)[0]:
            for sock in ready:
                sock.accept()[0].close() if sock is self.stream else sock.recv(64)
                self.arrived += 1
        return self.arrived

    def close(self) -> None:
        self.stream.close()
        self.datagrams.close()


def squat(port: int, procs: Path, tried: Synchronized[int], out: Synchronized[int]) -> None:
    """Enter a cgroup and try to send, every millisecond, until killed."""
    procs.write_text("0")
    while True:
        tried.value += 1
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(socket.AF_INET, kind) as sock:
                sock.connect((ADDRESS, port))
                out.value += sock.send(b"raw data")
        time.sleep(SQUATTER_PAUSE)


class Squatter:
    """Below the device's cgroup, in none of its roles."""

    def __init__(self, port: int, cgroup: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.tried, self.out = context.Value("L", 0), context.Value("L", 0)
        self.process = context.Process(
            target=squat, args=(port, cgroup / "cgroup.procs", self.tried, self.out), daemon=True
        )
        self.process.start()
        until("the squatter's first tries", lambda: bool(self.tried.value > 2))

    def end(self) -> None:
        """The control is that it tried."""
        before = self.tried.value
        until("another try", lambda: bool(self.tried.value > before))
        self.process.kill()
        self.process.join()
        assert self.out.value == 0, f"{self.out.value} bytes got out of {self.tried.value} tries"


class Monitor(threading.Thread):
    """Looks every few milliseconds whether a trainer runs that nobody watches; keeps the longest time."""

    def __init__(self, cgroup: Path) -> None:
        super().__init__(daemon=True)
        self.cgroup = cgroup
        self.longest = 0.0
        self.looks = self.running = 0
        self.ending = threading.Event()

    def run(self) -> None:
        since = 0.0
        while not self.ending.wait(0.005):
            self.looks += 1
            if not self.runs("trainer"):
                since = 0.0
                continue
            self.running += 1
            if self.runs("watcher") and self.runs("supervisor"):
                since = 0.0
                continue
            now = time.monotonic()
            since = since or now
            self.longest = max(self.longest, now - since)

    def runs(self, role: str) -> bool:
        folder = self.cgroup / role
        try:
            return bool((folder / "cgroup.procs").read_text()) and (
                "frozen 0" in (folder / "cgroup.events").read_text()
            )
        except OSError:
            return False

    def end(self) -> None:
        self.ending.set()
        self.join()


@dataclass
class Killing:
    """One device through many kills. ``tally``: how often each kind of point was killed at; ``starved``: how
    often a round was asked for again because the watcher had got no processor; ``unknown``: tasks that nobody
    answered, because the gateway died before it knew them."""

    device: Daemon
    receiver: Receiver
    folder: Path
    monitor: Monitor
    squatter: Squatter | None = None
    tally: Counter[str] = field(default_factory=Counter)
    starved: int = 0
    unknown: int = 0

    def start(self) -> None:
        """Start the device with the hook in its supervisor."""
        (self.folder / "killed").unlink(missing_ok=True)
        self.device.start(
            before=(
                "env",
                f"PYTHONPATH={HOOK}:{os.environ['PYTHONPATH']}",
                f"KILL_FOLDER={self.folder}",
                f"KILL_CGROUP={self.device.cgroup}",
            )
        )

    def plan(self, phase: str, victim: str = "", step: str = "", record: bool = False) -> None:
        """Who dies at which step of the next such phase; nobody, without a victim."""
        path = self.folder / f"{phase}.json"
        if not victim and not record:
            path.unlink(missing_ok=True)
            return
        path.write_text(json.dumps({"victim": victim, "step": step, "record": record}))

    def killed(self) -> str:
        """What the hook wrote when it killed; "" while it has not."""
        try:
            return (self.folder / "killed").read_text()
        except FileNotFoundError:
            return ""

    def count(self, phase: str, victim: str) -> None:
        """A kill took place there."""
        (self.folder / "killed").unlink(missing_ok=True)
        self.tally[f"{phase} {victim}"] += 1

    def squat(self) -> None:
        if self.squatter is None:
            self.squatter = Squatter(self.receiver.port, self.device.cgroup)

    def unsquat(self) -> None:
        if self.squatter is not None:
            self.squatter.end()
            self.squatter = None

    def wait_up(self) -> Document:
        """All roles run and the federation is there."""
        found = self.wait("up", ready)
        pins = sorted(path.name for path in self.device.pins.iterdir())
        assert pins == ["links", "maps", "programs"], f"an earlier life's pins are left: {pins}"
        return found

    def wait(self, what: str, good: Callable[[Document], bool]) -> Document:
        """As the device's own, but patient: the hook makes the supervisor slow, and so does each question."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            process, found = self.device.process, self.device.status()
            assert process is None or process.poll() is None, (what, self.device.lines()[-20:])
            if found is not None and good(found):
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what}: not in {PATIENCE_SECONDS:g} s; {self.device.lines()[-5:]}")

    def await_death(self) -> None:
        """The supervisor dies by the hook; then nothing of it runs, and nothing has left."""
        process = self.device.process
        assert process is not None
        assert process.wait(60.0) == -signal.SIGKILL, (self.killed(), self.device.lines()[-5:])
        self.device.process = None
        self.check_dead()

    def check_dead(self) -> None:
        """After the supervisor's end by a kill."""
        until("the end of all roles", lambda: not self.still_runs(), GONE_SECONDS, self.named)
        self.check()

    def still_runs(self) -> list[int]:
        """Processes of roles that are neither dead nor frozen."""
        found = []
        for file in self.device.cgroup.glob("*/cgroup.procs"):
            with suppress(OSError):
                if "frozen 0" in (file.parent / "cgroup.events").read_text():
                    found += [int(word) for word in file.read_text().split()]
        return found

    def named(self) -> list[str]:
        return [f"{pid} {command(pid)}" for pid in self.still_runs()]

    def check(self) -> None:
        """Nothing has left by now, and the ledger is whole."""
        assert self.receiver.look() == 0, "something arrived"
        assert self.monitor.longest < UNWATCHED_SECONDS, f"unwatched for {self.monitor.longest:.3f} s"
        for role, sent in self.sent().items():
            assert sent == 0, f"{role.label} sent {sent} bytes"
        if (self.device.state / "guard" / ledger.FILE).exists():
            self.device.entries()

    def sent(self) -> dict[Role, int]:
        """Bytes that the kernel let out, of roles that send nothing; of every life that left pins."""
        found = dict.fromkeys(SILENT, 0)
        for path in self.device.pins.glob("**/maps/traffic"):
            fd = bpf.open_pin(path)
            try:
                table: dict[TrafficKey, Traffic] = dict(maps.read_traffic(fd))
            finally:
                os.close(fd)
            for key, cell in table.items():
                out = key.direction is Direction.TRANSMIT and key.verdict is Verdict.ALLOWED
                if out and key.role in found:
                    found[key.role] += cell.bytes
        return found

    def kill_role(self, role: str) -> None:
        """Every process of a role, from outside."""
        for word in (self.device.cgroup / role / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(word), signal.SIGKILL)


def ready(status: Document) -> bool:
    return bool(status["federation"]["connected"]) and is_up(status, "trainer")


def healthy(status: Document) -> bool:
    """All is back, and all that was denied was the app's restless thread."""
    up = all(is_up(status, role) for role in ("watcher", "trainer", "guard", "gateway"))
    return bool(up and status["federation"]["connected"] and status["state"] == "waiting")


def say(text: str) -> None:
    """Progress of a long run, past what pytest captures."""
    sys.__stderr__ and print(text, file=sys.__stderr__, flush=True)
