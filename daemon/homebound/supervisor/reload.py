# SPDX-License-Identifier: Apache-2.0
"""Read the configuration anew while the daemon runs: some settings take effect at once, the rest are named.

A child reads and checks the files, so that the supervisor never loads what that takes; it goes on turning
meanwhile. A wrong configuration changes nothing. Facts (the child), decision (compare) and action (apply)
are apart. May import: events, journal, supervisor.loop, config.reference,
rooms.bounds, settings, supervisor.status. Source: systemd.service(5) (ExecReload=).
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from homebound import journal
from homebound.config.reference import toml_key
from homebound.events import Role
from homebound.rooms import bounds
from homebound.settings import Settings, sections
from homebound.supervisor import status
from homebound.supervisor.loop import Step

if TYPE_CHECKING:
    from homebound.supervisor.daemon import Supervisor

# What can change while roles run: each belongs to the supervisor or to a file of a cgroup. Everything else
# was handed to a role at its start or is built into a wall.
LIVE = frozenset({
    "canary.interval_seconds", "trainer.cpu_max_percent", "trainer.log_bytes", "trainer.memory_max_bytes",
    "trainer.tasks_max",
})  # fmt: skip
# Reading the configuration takes half a second; a machine under load ten times that.
CHILD_SECONDS = 20.0
ENDED_SECONDS = 2.0


@dataclass(frozen=True)
class Change:
    """The settings from now on, what of them is new, and what would need a restart."""

    settings: Settings
    applied: tuple[str, ...]
    fixed: tuple[str, ...]


def compare(running: Settings, wanted: Mapping[str, Any]) -> Change:
    """What becomes of ``wanted`` (dotted key -> value, as ``show-config --json`` has it). Pure."""
    now = dict(flatten(running))
    differing = sorted(key for key in {*now, *wanted} if now.get(key, ...) != wanted.get(key, ...))
    applied = tuple(key for key in differing if key in LIVE)
    settings = running
    for key in applied:
        section, name = key.split(".")
        part = dataclasses.replace(getattr(settings, section), **{name: wanted[key]})
        settings = dataclasses.replace(settings, **{section: part})
    return Change(settings, applied, tuple(key for key in differing if key not in LIVE))


def flatten(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Dotted key and JSON value of each setting, tables entry by entry: the form of ``show-config``."""
    document = json.loads(json.dumps(dataclasses.asdict(settings)))
    known = sections()
    for name, value in document.items():
        for key, inner in value.items() if name in known else ():
            yield from _entries(f"{name}.{key}", inner)
        if name not in known:
            yield name, value


def _entries(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        yield from ((f"{key}.{toml_key(name)}", item) for name, item in value.items())
    else:
        yield key, value


def signals(daemon: Supervisor) -> Mapping[signal.Signals, Step]:
    """What each signal to the daemon does: SIGTERM and SIGINT end it, SIGHUP reads the configuration anew."""

    def stop() -> None:
        daemon.stopping = True

    return {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: lambda: begin(daemon)}


def begin(daemon: Supervisor) -> None:
    """Start the child; the loop goes on. A terminal that hung up ends a daemon started by hand."""
    if os.isatty(0):
        daemon.stopping = True
        return
    daemon.notify.reloading()
    words = [sys.executable, "-s", "-P", "-m", "homebound", "show-config", "--json"]
    if daemon.config_file:
        words += ["--config", daemon.config_file]
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdout is not None
    output, parts = child.stdout, list[bytes]()

    def take() -> None:
        part = output.read(65536)
        parts.append(part)
        if not part:
            _finish(daemon, child, output, b"".join(parts))

    daemon.loop.watch(output.fileno(), take)
    daemon.loop.after("reload", CHILD_SECONDS, child.kill)


def _finish(daemon: Supervisor, child: subprocess.Popen[bytes], output: IO[bytes], text: bytes) -> None:
    daemon.loop.forget(output.fileno())
    output.close()
    try:
        ended = child.wait(ENDED_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        ended = child.wait()
    daemon.loop.cancel("reload")
    if ended != 0:
        journal.reload_refused(ended)
        daemon.notify.ready("The configuration is wrong; the old one stays. " + status.line(daemon))
        return
    wanted = {key: entry["value"] for key, entry in json.loads(text)["settings"].items()}
    change = compare(daemon.config, wanted)
    apply(daemon, change)
    journal.reloaded(change.applied, change.fixed)
    note = f"A restart is needed for {', '.join(change.fixed)}. " if change.fixed else ""
    daemon.notify.ready(note + status.line(daemon))


def apply(daemon: Supervisor, change: Change) -> None:
    """Let what is new take effect."""
    old = daemon.config
    daemon.config = change.settings
    if any(key.startswith("trainer.") for key in change.applied):
        bounds.limit(daemon.place.cgroup(Role.TRAINER), change.settings.trainer)
    if "trainer.log_bytes" in change.applied and daemon.log is not None:
        daemon.log.grant(change.settings.trainer.log_bytes - old.trainer.log_bytes)
    if "canary.interval_seconds" in change.applied:
        daemon.loop.move("canary", change.settings.canary.interval_seconds)
        daemon.loop.move("usage", 0.0)  # the watcher is told among other things
