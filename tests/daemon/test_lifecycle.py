# SPDX-License-Identifier: Apache-2.0
"""Stops, crashes and hangs: of the daemon and of each role, while it starts, waits and trains.

Times are printed; asserted are only the bounds that the daemon promises.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from daemon.conftest import NO_UPDATE
from daemon.federation import Federation
from daemon.rig import ROLES, Daemon, Document, Ended, after, is_up, until, user
from homebound.books.accounts import GRACE_SECONDS
from homebound.supervisor.silence import PROMISED_SECONDS

pytestmark = [
    pytest.mark.root,
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
STOP_SECONDS, TRAINER_SECONDS = 5.0, 1.0
# Flower's own code for a node that is not there.
UNAVAILABLE = 5


def trains(status: Document) -> bool:
    return bool(status["state"] == "training")


def check_stop(ended: Ended) -> None:
    print(f"ended {ended.seconds:.2f} s after SIGTERM")
    assert ended.status == 0
    assert ended.seconds < STOP_SECONDS
    assert "Traceback" not in "\n".join(ended.lines)


@pytest.mark.parametrize("moment", [0.3, 0.6, 0.9])
def test_told_to_stop_while_it_starts(daemon: Daemon, moment: float) -> None:
    daemon.start()
    time.sleep(moment)
    begun = daemon.run.exists()
    print(f"after {moment} s: {'begun' if begun else 'nothing made yet'}")
    ended = daemon.stop()
    if begun:
        check_stop(ended)
    else:
        assert ended.status in (0, -signal.SIGTERM)


# Who hangs before it is the role, by its place among the users.
HANGS = {"canary": 6, "watcher": 2, "trainer": 3, "gateway": 5}


@pytest.mark.parametrize("role", HANGS)
def test_told_to_stop_while_a_start_hangs(daemon: Daemon, role: str) -> None:
    """A program on the way to the role hangs: the stop does not wait for it."""
    program = daemon.folder / "setpriv"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--reuid={daemon.base + HANGS[role]}*) sleep 600 ;; esac\n'
        'exec /usr/bin/setarch "$@"\n'
    )
    program.chmod(0o755)
    mounts = f"mount --bind /usr/bin/setpriv /usr/bin/setarch && mount --bind {program} /usr/bin/setpriv"
    daemon.start(before=after(mounts))
    procs = daemon.cgroup / role / "cgroup.procs"
    until("the hanging start", lambda: "sleep" in [named(pid) for pid in in_cgroup(procs)], 20.0)
    check_stop(daemon.stop())


def in_cgroup(procs: Path) -> list[int]:
    return [int(word) for word in procs.read_text().split()] if procs.exists() else []


def named(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_told_to_stop_while_it_waits(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_ready()
    assert len(daemon.owned()) == 4, "the control: roles run as its users"
    assert len(daemon.namespaces) >= 2, "the control: the sealed roles have networks of their own"
    check_stop(daemon.stop())


def test_told_to_stop_while_it_trains(daemon: Daemon, federation: Federation) -> None:
    """The federation hears at once that the device left, and the next start takes the next task."""
    daemon.start()
    daemon.wait_ready()
    order = federation.send(daemon.node, "hangs", 600.0)
    daemon.wait("training", trains)
    check_stop(daemon.stop())
    assert daemon.leftovers() == []
    assert federation.reply(order)["code"] == UNAVAILABLE
    daemon.start()
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    assert [entry.kind for entry in daemon.entries()] == ["refusal", "release"]
    assert daemon.outbox == []


def test_told_to_stop_while_a_role_hangs(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_ready()
    for role in ("gateway", "guard"):
        os.kill(daemon.pid(role), signal.SIGSTOP)
    check_stop(daemon.stop())


def test_told_to_stop_while_the_federation_hangs(daemon: Daemon, federation: Federation) -> None:
    daemon.start()
    daemon.wait_ready()
    assert federation.link.process is not None
    federation.link.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.5)  # so that the gateway waits for an answer
        check_stop(daemon.stop())
    finally:
        federation.link.process.send_signal(signal.SIGCONT)


def test_bytes_that_a_busy_supervisor_does_not_tell_of_are_no_violation(daemon: Daemon) -> None:
    """The gateway's word of what it sends goes by way of the supervisor, which may take long over a start."""
    daemon.start()
    daemon.wait_ready()
    assert daemon.process is not None
    before = daemon.wait("connected", lambda s: bool(s["federation"]["connected"]))["kernel_stream_bytes"]
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(GRACE_SECONDS + 4)
    daemon.process.send_signal(signal.SIGCONT)
    after = daemon.wait("at rest", lambda s: s["kernel_stream_bytes"] > before and not s["unaccounted_bytes"])
    assert after["violations"] == []
    assert daemon.metrics()["homebound_violations_total role=gateway rule=unaccounted"] == 0


def test_killed_daemon_and_the_next_one(daemon: Daemon, federation: Federation) -> None:
    """Every role dies with it; the next start removes what is left and goes on with ledger and session."""
    daemon.start()
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    order = federation.send(daemon.node, "hangs", 600.0)
    status = daemon.wait("training", trains)
    pids = {role: status["roles"][role]["pid"] for role in ROLES}
    namespaces, node = set(daemon.namespaces), daemon.node
    began = time.monotonic()
    daemon.kill()
    gone = until("the trainer's end", lambda: user(pids["trainer"]) == -1)
    assert gone < TRAINER_SECONDS
    until("the end of all", lambda: daemon.owned() == [] and daemon.pids() == [])
    print(f"killed: trainer gone after {gone:.3f} s, all after {time.monotonic() - began:.3f} s")
    left = daemon.leftovers()
    assert {str(daemon.cgroup), str(daemon.pins), str(daemon.run)} <= set(left), "the walls outlive it"
    with subprocess.Popen(["sleep", "600"]) as squatter:
        (daemon.cgroup / "trainer/cgroup.procs").write_text(str(squatter.pid))
        began = time.monotonic()
        daemon.start()
        daemon.wait_ready()
        print(f"up again {time.monotonic() - began:.2f} s after the start")
        assert squatter.wait(0) == -signal.SIGKILL
    assert daemon.node == node
    assert federation.reply(order) == NO_UPDATE
    assert federation.ask(daemon.node)["outcome"] == "update"
    assert [entry.kind for entry in daemon.entries()] == ["release", "release"]
    status = daemon.wait("at rest", lambda s: s["rounds_completed"] >= 1)
    assert (status["unaccounted_bytes"], status["violations"]) == (0, [])
    assert daemon.stop().status == 0
    daemon.namespaces |= namespaces


@pytest.mark.parametrize(
    ("role", "number"),
    [("trainer", signal.SIGKILL), ("guard", signal.SIGKILL), ("gateway", signal.SIGKILL),
     ("watcher", signal.SIGKILL), ("watcher", signal.SIGSTOP)],
)  # fmt: skip
def test_role_that_dies_or_hangs(
    running: Daemon, federation: Federation, role: str, number: signal.Signals
) -> None:
    """The trainer ends with it, the round is refused, all comes back by itself, and the next round goes."""
    before = running.wait("all up", lambda s: all(is_up(s, name) for name in ROLES))
    entries, lines = len(running.entries()), len(running.lines())
    restarts = running.metrics()[f"homebound_role_restarts_total role={role}"] if role != "watcher" else 0
    order = federation.send(running.node, "hangs", 600.0)
    status = running.wait("training", trains)
    pids = {name: status["roles"][name]["pid"] for name in ROLES}
    began = time.monotonic()
    os.kill(pids[role], number)
    gone = until("the trainer's end", lambda: user(pids["trainer"]) == -1)
    assert gone < (PROMISED_SECONDS if number == signal.SIGSTOP else TRAINER_SECONDS)
    again = running.wait("all back", lambda s: is_back(s, pids, role))
    back = time.monotonic() - began
    print(f"{role} {number.name}: trainer gone after {gone:.3f} s, all back after {back:.2f} s")

    assert federation.reply(order) == NO_UPDATE
    assert again["refused"]["trainer_died"] == before["refused"].get("trainer_died", 0) + 1
    assert again["roles"][role]["restarts"] == before["roles"][role]["restarts"] + 1
    said = running.lines()[lines:]
    if role != "trainer":  # whose end is told by the round's refusal
        why = "silent" if number == signal.SIGSTOP else "ended"
        assert f"homebound: the {role} failed: {why}" in said
    assert any(line.endswith("no update left: trainer_died") for line in said)
    if role != "watcher":  # whose own counts begin anew with it
        assert running.metrics()[f"homebound_role_restarts_total role={role}"] == restarts + 1

    assert federation.ask(running.node)["outcome"] == "update"
    after = running.wait("well", lambda s: s["problem"] == "" and s["state"] == "waiting")
    assert (after["unaccounted_bytes"], after["violations"]) == (0, [])
    assert after["roles"]["trainer"]["transmit_bytes"] == 0
    assert running.entries()[-1].kind == "release"
    assert len(running.entries()) <= entries + 2


def test_trainer_that_dies_between_rounds(running: Daemon, federation: Federation) -> None:
    status = running.wait("waiting", lambda s: s["state"] == "waiting" and is_up(s, "trainer"))
    pid = status["roles"]["trainer"]["pid"]
    said = running.lines().count("homebound: the trainer failed: ended")
    os.kill(pid, signal.SIGKILL)
    running.wait("it back", lambda s: is_up(s, "trainer") and s["roles"]["trainer"]["pid"] != pid)
    assert running.lines().count("homebound: the trainer failed: ended") == said + 1
    assert federation.ask(running.node)["outcome"] == "update"


def is_back(status: Document, pids: dict[str, int], role: str) -> bool:
    roles = status["roles"]
    up = all(is_up(status, name) for name in ROLES) and status["federation"]["connected"]
    return bool(up and all(roles[name]["pid"] != pids[name] for name in (role, "trainer")))
