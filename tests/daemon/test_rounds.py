# SPDX-License-Identifier: Apache-2.0
"""What belongs to one round ends with it: an app that goes wrong, whichever way, costs its round and no more.

One daemon for all; each fault is followed by a round that succeeds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from daemon.conftest import NO_UPDATE, MakeDaemon
from daemon.federation import Federation
from daemon.rig import Daemon, Document, until

pytestmark = [
    pytest.mark.root,
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
MIB = 1 << 20
TIMEOUT_SECONDS, TASKS_MAX, SCRATCH_BYTES, LOG_BYTES = 3.0, 64, 8 * MIB, 65536
# Python, numpy and Flower take a quarter of it.
MEMORY_MAX_BYTES = 512 * MIB


@dataclass(frozen=True)
class Fault:
    """A behaviour of the app and the code that the device gives for it."""

    behaviour: str
    code: str
    amount: float = 0.0


FAULTS = (
    Fault("fails", "app_failed"),
    Fault("exits", "app_failed"),
    Fault("dies", "trainer_died"),
    Fault("hangs", "timeout", 600.0),
    Fault("not_finite", "not_finite"),
    Fault("other_shape", "schema"),
    Fault("extra_key", "schema"),
    Fault("huge", "too_large", 8 * MIB),
    Fault("huge_name", "app_failed", 2 * MIB),
    Fault("forks_and_dies", "trainer_died"),
    Fault("forks", "app_failed", 4 * TASKS_MAX),
    Fault("eats_memory", "app_failed", 2 * MEMORY_MAX_BYTES),
    Fault("fills_scratch", "app_failed", 4 * SCRATCH_BYTES),
)


@pytest.fixture(scope="module")
def running(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    daemon = make_daemon()
    daemon.config["trainer"] |= {
        "round_timeout_seconds": TIMEOUT_SECONDS,
        "tasks_max": TASKS_MAX,
        "memory_max_bytes": MEMORY_MAX_BYTES,
        "scratch_bytes": SCRATCH_BYTES,
        "log_bytes": LOG_BYTES,
    }
    daemon.start()
    daemon.wait_ready()
    yield daemon
    assert daemon.stop().status == 0
    assert daemon.leftovers() == []


def newest(status: Document) -> Document:
    task: Document = status["tasks"][-1]
    return task


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.behaviour)
def test_fault_costs_its_round_and_no_more(running: Daemon, federation: Federation, fault: Fault) -> None:
    before = running.wait("an answer", lambda _: True)
    lines, metrics, entries = len(running.lines()), running.metrics(), len(running.entries())

    assert federation.ask(running.node, fault.behaviour, fault.amount) == NO_UPDATE

    until("the refusal is acknowledged", lambda: running.outbox == [])
    after = running.wait("the refusal", lambda s: newest(s)["state"] == "refused")
    number = newest(after)["round"]
    assert newest(after)["payload_bytes"] == 0
    assert after["refused"][fault.code] == before["refused"].get(fault.code, 0) + 1
    assert f"homebound: round {number}: no update left: {fault.code}" in running.lines()[lines:]
    rejected = f"homebound_updates_rejected_total reason={fault.code}"
    assert running.metrics()[rejected] == metrics[rejected] + 1
    (entry,) = running.entries()[entries:]
    assert (entry.kind, entry.round, entry.payload_bytes) == ("refusal", number, 0)
    check_nothing_out(after)

    assert federation.ask(running.node)["outcome"] == "update"
    after = running.wait("the update sent", lambda s: newest(s)["state"] == "acknowledged")
    assert (newest(after)["round"], after["state"]) == (number + 1, "waiting")
    assert running.entries()[-1].kind == "release"
    check_nothing_out(after)


def check_nothing_out(status: Document) -> None:
    """Of the sealed roles; and nothing of the gateway's is unexplained."""
    for role in ("trainer", "guard"):
        assert (status["roles"][role]["transmit_bytes"], status["roles"][role]["denied"]) == (0, 0)
    assert status["unaccounted_bytes"] == 0
    assert status["violations"] == []


def test_children_end_with_the_trainer(running: Daemon, federation: Federation) -> None:
    """They leave the session and stay; the app dies; nobody of its user is left but the next trainer."""
    assert federation.ask(running.node, "forks", 5)["outcome"] == "update"
    trainer = running.base + 3
    many = [pid for pid in running.owned() if os.stat(f"/proc/{pid}").st_uid in (0, trainer)]
    assert len(many) >= 6, "the control: they were there"
    assert federation.ask(running.node, "dies") == NO_UPDATE
    assert federation.ask(running.node)["outcome"] == "update"
    cgroup = running.cgroup / "trainer/cgroup.procs"
    until("only bubblewrap and the trainer", lambda: len(cgroup.read_text().split()) == 2)


def test_log_has_a_budget(running: Daemon, federation: Federation) -> None:
    assert federation.ask(running.node, "prints", 20 * LOG_BYTES)["outcome"] == "update"
    log = running.state / "trainer.log"
    assert LOG_BYTES <= log.stat().st_size < LOG_BYTES + 200
    assert "trainer.log_bytes" in log.read_text()[-200:]
    assert log.stat().st_mode & 0o777 == 0o600


def test_words_of_the_app_stay_in_its_log(running: Daemon) -> None:
    """It raised an error with a record in it, and printed: neither is in what may be forwarded."""
    said = "\n".join(running.lines())
    assert "patient" not in said
    assert "yyy" not in said
    assert "Traceback" not in said
    assert "patient 4711" in (running.state / "trainer.log").read_text()


def test_status_is_well_after_all_that(running: Daemon) -> None:
    found = running.command("status", "--json")
    assert found.returncode == 0, found.stderr
    print(f"restarts of the trainer: {running.wait('it', lambda _: True)['roles']['trainer']['restarts']}")
