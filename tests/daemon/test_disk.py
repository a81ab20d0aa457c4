# SPDX-License-Identifier: Apache-2.0
"""A full disk below paths.state: no release without an entry, nothing lost, and back by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from daemon.conftest import NO_UPDATE, MakeDaemon
from daemon.federation import Federation
from daemon.rig import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
SIZE = 1 << 20


@pytest.fixture
def small(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A device whose state lies on a disk of 1 MiB."""
    daemon = make_daemon()
    state = Path(daemon.config["paths"]["state"])
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "tmpfs", str(state)], check=True)
    try:
        yield daemon
        assert daemon.stop().status == 0
    finally:
        daemon.clear()
        subprocess.run(["umount", str(state)], check=True)
    assert daemon.leftovers() == []


def fill(daemon: Daemon) -> Path:
    """Take all that is left; what to remove to give it back."""
    path = Path(daemon.config["paths"]["state"], "filler")
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_disk_fills_while_it_runs(small: Daemon, federation: Federation) -> None:
    small.start()
    small.wait_ready()
    assert federation.ask(small.node)["outcome"] == "update"
    filler = fill(small)
    assert federation.ask(small.node) == NO_UPDATE
    status = small.wait("the refusal", lambda s: s["refused"] == {"ledger": 1})
    assert status["released"]["updates"] == 1
    assert small.metrics()["homebound_updates_rejected_total reason=ledger"] == 1
    said = "\n".join(small.lines())
    assert "no release without an entry" in said
    assert "free some space" in said
    assert "no update left: ledger" in said
    filler.unlink()
    assert federation.ask(small.node)["outcome"] == "update"
    assert [entry.kind for entry in small.entries()] == ["release", "release"]
    assert small.wait("the count", lambda s: s["released"]["updates"] == 2)["unaccounted_bytes"] == 0


def test_disk_is_full_from_the_start(small: Daemon, federation: Federation) -> None:
    """The guard cannot open its ledger: nothing trains, status says which role failed, and it tries again."""
    filler = fill(small)
    small.start()
    status = small.wait("the trouble", lambda s: "the guard" in s["problem"])
    assert not status["federation"]["connected"]
    assert status["released"]["updates"] == 0
    said = [line for line in small.lines() if "the guard ends" in line]
    assert "free some space" in said[0]
    assert small.process is not None
    assert small.process.poll() is None
    filler.unlink()
    small.wait_ready()
    assert federation.ask(small.node)["outcome"] == "update"
    small.wait("well", lambda s: s["problem"] == "")
