# SPDX-License-Identifier: Apache-2.0
"""The real daemon in a folder of its own, and all that one can see of it from outside as root."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from homebound.books import ledger
from homebound.books.chain import Entry
from homebound.cli import statusclient
from homebound.config.reference import toml
from homebound.errors import NotRunning, ServiceUnavailable
from homebound.kernel import bpffs, cgroups

WAIT_SECONDS = 20.0
# Users of a device and of a test run, and the first number of all: away from those of a demo that may run at
# the same time.
USERS_EACH, USERS_RUN, USERS_FIRST = 8, 1000, 10_000_000
TRAINER = 3  # events.Role
ROLES = ("watcher", "trainer", "guard", "gateway")
# Parts of a status that say little in the message of a failed test.
LONG = frozenset({"denied_recent", "tasks", "walls", "roles"})
RUN = (sys.executable, "-m", "homebound", "run", "--config")

Document = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a daemon ended: exit status, seconds that it took, and what it wrote, as lines."""

    status: int
    seconds: float
    lines: list[str]

    @property
    def fault(self) -> str:
        """What is wrong and what to do, as one text; asserts that it is one line each, and no traceback."""
        said = [line for line in self.lines if not line.endswith(" stopped")]
        assert "Traceback" not in "\n".join(said), said
        hints = [line for line in said if line.startswith("  hint: ")]
        findings = [line for line in said if line.startswith("homebound: ")]
        assert len(hints) == 1, said
        assert said == [*findings, *hints], said
        return "\n".join(said)


@dataclass
class Daemon:
    """One device. ``config`` has tables by name; change it before start()."""

    folder: Path
    number: int
    config: Document
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    # Network namespaces that its roles had, and seconds since boot when it was told to end or killed.
    namespaces: set[int] = field(default_factory=set)
    left_at: float = 0.0

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def base(self) -> int:
        return int(self.config["users"]["base"])

    @property
    def state(self) -> Path:
        return Path(self.config["paths"]["state"], self.name)

    @property
    def run(self) -> Path:
        return Path(self.config["paths"]["run"], self.name)

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def cgroup(self) -> Path:
        return cgroups.mount() / "homebound" / self.name

    @property
    def pins(self) -> Path:
        return bpffs.FOLDER / "homebound" / self.name

    @property
    def outbox(self) -> list[str]:
        return sorted(path.name for path in (self.state / "gateway/outbox").iterdir())

    @property
    def node(self) -> int:
        """Its number in the federation."""
        return int(json.loads((self.state / "gateway/session.json").read_text())["node"])

    def start(self, before: tuple[str, ...] = (), prepare: Callable[[], None] | None = None) -> None:
        """Start it. ``before``: words before the command; ``prepare``: run in the child before all."""
        file = self.folder / "homebound.toml"
        file.write_text(document(self.config))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*before, *RUN, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def ended(self, seconds: float = WAIT_SECONDS) -> Ended:
        """Wait for its end."""
        assert self.process is not None
        began = time.monotonic()
        status = self.process.wait(seconds)
        self.process = None
        return Ended(status, time.monotonic() - began, self.lines())

    def stop(self) -> Ended:
        """SIGTERM, and wait for its end."""
        assert self.process is not None
        self.left_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill the supervisor, as a crash would."""
        assert self.process is not None
        self.left_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.process.kill()
        self.process.wait()
        self.process = None

    def lines(self) -> list[str]:
        """What it wrote, which without a journal is what the journal would have."""
        return self.log.read_text(errors="replace").splitlines()

    def status(self) -> Document | None:
        """Its status; None while it does not answer."""
        try:
            return statusclient.ask(self.run.parent, self.name)
        except (NotRunning, ServiceUnavailable):
            return None

    def wait(self, what: str, good: Callable[[Document], bool], seconds: float = WAIT_SECONDS) -> Document:
        """Wait until a status is good."""
        deadline = time.monotonic() + seconds
        last: Document | None = None
        while time.monotonic() < deadline:
            assert self.process is None or self.process.poll() is None, (what, self.lines())
            last = self.status()
            if last is not None and good(last):
                return last
            time.sleep(0.02)
        last = {key: value for key, value in (last or {}).items() if key not in LONG}
        raise AssertionError(f"{what}: not in {seconds:g} s; {last}; {self.lines()[-20:]}")

    def wait_ready(self) -> Document:
        """Wait until it is connected and a trainer runs."""
        found = self.wait("ready", lambda s: bool(s["federation"]["connected"]) and is_up(s, "trainer"))
        self.namespaces |= {namespace(pid) for pid in self.pids()} - {namespace(os.getpid())}
        return found

    def pid(self, role: str) -> int:
        """The process of a role itself, not that of bubblewrap above it."""
        found = self.status()
        assert found is not None
        return int(found["roles"][role]["pid"])

    def pids(self) -> list[int]:
        """Every process in its cgroups, by the kernel's list."""
        files = self.cgroup.rglob("cgroup.procs")
        return [int(word) for file in files for word in file.read_text().split() if word != "0"]

    def owned(self) -> list[int]:
        """Every process that runs as one of its users, wherever it is."""
        users = range(self.base, self.base + USERS_EACH)
        return [pid for pid in processes() if user(pid) in users]

    def metrics(self) -> Mapping[str, float]:
        """What Prometheus would see: a sample's name with its labels -> value."""
        url = f"http://127.0.0.1:{self.config['metrics']['port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = [f"{key}={value}" for key, value in sorted(sample.labels.items())]
                found[" ".join([sample.name, *labels])] = sample.value
        return found

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line with this device's configuration."""
        line = [sys.executable, "-m", "homebound", *words, "--config", str(self.folder / "homebound.toml")]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def entries(self) -> list[Entry]:
        """The ledger, which must be whole."""
        reader = ledger.open_reader(self.state / "guard" / ledger.FILE)
        try:
            assert reader.verify() == ()
            return list(reader.entries())
        finally:
            reader.close()

    def leftovers(self) -> list[str]:
        """What is still there of it, apart from its state folder."""
        places = (self.cgroup, self.pins, self.run, Path("/run/homebound") / f"{self.name}.lock")
        found = [str(path) for path in places if path.exists()]
        found += [f"process {pid}: {command(pid)}" for pid in self.owned()]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self.name in line]
        # The kernel gives the number of a namespace again; whoever started later has one of his own, and
        # another worker that runs tests makes some for itself.
        inside = [pid for pid in processes() if namespace(pid) in self.namespaces and not is_beside(pid)]
        return found + [f"in its network: {command(pid)}" for pid in inside if started(pid) < self.left_at]

    def clear(self) -> None:
        """After a failed test: end what is left, so that the next one starts clean."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.terminate()
                self.process.wait(10)
            self.process.kill()
            self.process.wait()
        if self.leftovers():
            self.start()  # it knows best how to remove what one of its name left
            self.wait("the next start", lambda _: True)
            self.stop()


def users_of(pid: int) -> int:
    """The first of the user numbers of a test run; another run at the same time has others."""
    return USERS_FIRST + USERS_RUN * (pid % 100_000)


def document(config: Mapping[str, Any]) -> str:
    """The settings as TOML."""
    lines = [f"{key} = {toml(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for name, table in config.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def after(script: str) -> tuple[str, ...]:
    """Words that run a line of shell in a mount namespace before the command."""
    return ("unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh")


def is_up(status: Document, role: str) -> bool:
    return bool(status["roles"][role]["state"] == "running")


def processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def user(pid: int) -> int:
    """The real user of a process; -1 when it has ended or is a zombie."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return -1
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return -1 if fields["State"].startswith("Z") else int(fields["Uid"].split()[0])


def started(pid: int) -> float:
    """When a process started, in seconds since boot; a large number when it has ended. proc_pid_stat(5)"""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return math.inf
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def ancestors(pid: int) -> list[int]:
    """The process and those it came from, up to one that nobody started. proc_pid_stat(5)"""
    line = []
    while pid:
        line.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            break
    return line


def is_beside(pid: int) -> bool:
    """Whether it comes from another child of our parent: then it is that one's. What a daemon left is not,
    for an orphan comes from whoever takes orphans."""
    line, parent = ancestors(pid), os.getppid()
    return parent != 1 and parent in line and os.getpid() not in line


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80]
    except OSError:
        return "gone"


def namespace(pid: int) -> int:
    """The network namespace of a process; 0 when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def until(
    what: str, good: Callable[[], bool], seconds: float = 10.0, why: Callable[[], object] = str
) -> float:
    """Wait until something holds; how long it took. ``why`` says more of what does not."""
    began = time.monotonic()
    while not good():
        assert time.monotonic() - began < seconds, f"{what}: not in {seconds:g} s; {why()}"
        time.sleep(0.005)
    return time.monotonic() - began
