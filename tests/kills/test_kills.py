# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each role and of the supervisor at each step of start, round and stop: no byte leaves, no
trainer runs unwatched, the next start opens no window and removes what is left, the ledger is whole.

A sample of the points by default; all of them with KILLS=all (make test-kills), which takes half an hour;
those of some phases with KILLS=round+stop. KILLS_SECONDS=900 begins no life after so long; what is
taken by then is spread over all.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pytest

from daemon.conftest import NO_UPDATE
from daemon.federation import Federation
from kills.points import Point, every, lives, sample
from kills.rig import PATIENCE_SECONDS, Killing, Receiver, healthy, say

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
SAMPLE, LEAST = 24, 200
# A server part that waits for the rest of a reply looks for it less and less often, at last every 12 s.
REPLY_SECONDS = 70.0
# A watcher that gets no processor on a busy machine ends the training in hand, as promised: the one reason to
# ask again. The last line of a run says how often that was.
SILENT, TRIES = "homebound: the watcher failed: silent", 3
# The server part's own word when nobody answered for a minute. A SuperLink gives a task once: who dies before
# the task's name is on disk cannot refuse it (docs/leaks.md). Every other task is answered.
NOBODY = {"outcome": "none"}
MOST_UNKNOWN = 0.05
STRIDE = 3
# The supervisor's last steps of a round come after the federation has the reply.
AFTER_SECONDS = 3.0
# Starts that are cut short follow one another, each over what the one before left; then one must come up.
STARTS_IN_A_ROW = 8


def test_control_what_the_app_sends_arrives_from_elsewhere(receiver: Receiver) -> None:
    """The receiver counts both kinds, so that a count of 0 means something."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.connect(("127.0.0.1", receiver.port))
            sock.send(b"raw data")
    deadline = time.monotonic() + 10.0
    while receiver.look() < 2:
        assert time.monotonic() < deadline
    receiver.arrived = 0


@pytest.mark.timeout(7200)
def test_killed_at_every_point(killing: Killing, restless: Federation) -> None:
    began = time.monotonic()
    points = every(record(killing, restless))
    wanted = os.environ.get("KILLS", "")
    chosen = points if wanted == "all" else [point for point in points if point.phase in wanted.split("+")]
    chosen = chosen or sample(points, SAMPLE)
    planned = lives(chosen)
    if limit := float(os.environ.get("KILLS_SECONDS", 0)):
        planned = [life for first in range(STRIDE) for life in planned[first::STRIDE]]
    lived = 0
    for number, life in enumerate(planned):
        if limit and time.monotonic() - began > limit:
            say(f"{len(planned) - number} of {len(planned)} lives are left out: {limit:.0f} s are over")
            break
        lived += len(life)
        said = f"{number + 1}/{len(planned)} {time.monotonic() - began:.0f} s"
        say(f"{said} {[(p.phase, p.victim, p.step or p.moment) for p in life]}")
        live(killing, restless, life)
        if life[0].phase == "start" and number % STARTS_IN_A_ROW == STARTS_IN_A_ROW - 1:
            come_up_and_die(killing, restless)
    finish(killing, restless)
    total = killing.tally.total()
    say(
        f"{total} kills at {lived} of {len(chosen)} points in {time.monotonic() - began:.0f} s:"
        f" {dict(killing.tally)}; longest unwatched {killing.monitor.longest * 1000:.0f} ms"
        f" of {killing.monitor.running} looks at a running trainer;"
        f" asked again for a starved watcher {killing.starved} times;"
        f" {killing.unknown} tasks died with the gateway before it could write down their names"
    )
    assert killing.monitor.running > 0
    assert killing.unknown <= MOST_UNKNOWN * lived
    assert total > 0.7 * lived, "most points are reached"
    assert total >= LEAST or lived < len(points)


def record(killing: Killing, federation: Federation) -> Mapping[str, Sequence[str]]:
    """One life without a kill: the steps of each phase."""
    for phase in ("start", "round", "stop"):
        killing.plan(phase, record=True)
    killing.start()
    killing.wait_up()
    order(killing, federation)
    assert killing.device.stop().status == 0
    assert killing.device.leftovers() == []
    killing.check()
    for phase in ("start", "round", "stop"):
        killing.plan(phase)
    return {
        phase: (killing.folder / f"{phase}.steps").read_text().split("\n")
        for phase in ("start", "round", "stop")
    }


def order(killing: Killing, federation: Federation) -> None:
    """A round that goes well."""
    before = len(killing.device.entries())
    for _ in range(TRIES):
        said = len(killing.device.lines())
        reply = federation.ask(killing.device.node)
        if reply["outcome"] == "update":
            break
        assert SILENT in killing.device.lines()[said:], (reply, killing.device.lines()[-20:])
        killing.starved += 1
        killing.wait("all back", healthy)
    else:
        raise AssertionError(killing.device.lines()[-20:])
    status = killing.wait("at rest", healthy)
    assert {violation["role"] for violation in status["violations"]} <= {"trainer"}, status["violations"]
    assert status["unaccounted_bytes"] == 0
    assert status["roles"]["trainer"]["transmit_bytes"] == status["roles"]["guard"]["transmit_bytes"] == 0
    assert len(killing.device.entries()) > before


def live(killing: Killing, federation: Federation, life: Sequence[Point]) -> None:
    """One life of the daemon with its kills."""
    first, last = life[0], life[-1]
    killing.plan("start", *((first.victim, first.step) if first.phase == "start" else ()))
    if first.phase == "start" and first.victim != "supervisor":
        killing.unsquat()  # a daemon that gives up takes its programs off when its last role has ended
    killing.start()
    if first.phase == "start" and first.victim == "supervisor":
        die_or_come_up(killing, first)
        return
    if first.phase == "start":
        outlive_a_start(killing, first)
    for point in life:
        if point.phase == "round":
            in_a_round(killing, federation, point)
    if last.phase == "stop":
        stop(killing, last)
    elif killing.device.process is not None:
        killing.device.kill()
        killing.check_dead()


def die_or_come_up(killing: Killing, point: Point) -> None:
    """The supervisor dies while it starts. A step that is not taken in each start may be passed."""
    process = killing.device.process
    assert process is not None
    deadline = time.monotonic() + 60.0
    while process.poll() is None and killing.device.status() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        status = None
        while process.poll() is None and (status is None or status["state"] == "starting"):
            status = killing.device.status()
            time.sleep(0.1)
    if process.poll() is None:
        killing.device.kill()
        killing.check_dead()
        return
    killing.await_death()
    killing.count("start", "supervisor")
    if killing.device.pins.exists() and list(killing.device.pins.glob("links/hb_egress")):
        killing.squat()
    del point


def outlive_a_start(killing: Killing, point: Point) -> None:
    """A role dies while the daemon starts: all comes up all the same, or the daemon ends with a line."""
    process = killing.device.process
    assert process is not None
    deadline = time.monotonic() + 60.0
    while process.poll() is None and time.monotonic() < deadline:
        status = killing.device.status()
        if status is not None and healthy(status):
            break
        time.sleep(0.2)
    if killing.killed():
        killing.count("start", point.victim)
    if process.poll() is not None:
        assert killing.device.ended().status not in (0, -signal.SIGKILL), killing.device.lines()
        killing.check_dead()
        killing.plan("start")
        killing.start()
    killing.wait_up()
    killing.check()


def in_a_round(killing: Killing, federation: Federation, point: Point) -> None:
    """Somebody dies in a round. The federation hears of it once, and the next round goes well."""
    killing.wait_up()
    killing.squat()
    before, said = len(killing.device.entries()), len(killing.device.lines())
    if point.step:
        killing.plan("round", point.victim, point.step)
    sent = federation.send(killing.device.node)
    if point.moment:
        time.sleep(point.moment)
        if point.victim == "supervisor":
            killing.device.kill()
        else:
            killing.kill_role(point.victim)
        killing.count("round", point.victim)
    if point.victim == "supervisor":
        if point.step and die_or_finish(killing, federation, sent):
            killing.await_death()
            killing.count("round", "supervisor")
        killing.check_dead()
        killing.plan("round")
        killing.start()
        killing.wait_up()
    reply = federation.reply(sent, REPLY_SECONDS)
    if killing.killed():
        killing.count("round", point.victim)
    killing.plan("round")
    if reply == NOBODY:
        assert point.victim in ("supervisor", "guard", "gateway"), point
        assert not any(
            "no update left" in line or "released" in line for line in killing.device.lines()[said:]
        )
        killing.unknown += 1
    assert reply in (NO_UPDATE, NOBODY) or reply["outcome"] == "update", reply
    killing.wait("all back", healthy)
    killing.check()
    released = [entry.kind for entry in killing.device.entries()[before:]].count("release")
    # A release that its gateway did not live to keep stands in the ledger and was never sent.
    assert released == 1 or (released == 0 and reply in (NO_UPDATE, NOBODY))
    order(killing, federation)


def die_or_finish(killing: Killing, federation: Federation, sent: str) -> bool:
    """Whether it died in the round. A step by the clock is not taken in each: then it dies later."""
    process = killing.device.process
    assert process is not None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and not federation.has_reply(sent):
        assert time.monotonic() < deadline, killing.device.lines()[-20:]
        time.sleep(0.05)
    with suppress(subprocess.TimeoutExpired):
        process.wait(AFTER_SECONDS)
    if process.poll() is not None:
        return True
    killing.plan("round")
    killing.device.kill()
    return False


def stop(killing: Killing, point: Point) -> None:
    """Somebody dies while the daemon stops."""
    killing.wait("up", lambda status: bool(status["state"] != "starting"))
    killing.unsquat()
    killing.plan("stop", point.victim, point.step)
    process = killing.device.process
    assert process is not None
    killing.device.left_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    process.send_signal(signal.SIGTERM)
    status = killing.device.ended(60.0).status
    if killing.killed():
        killing.count("stop", point.victim)
    if point.victim == "supervisor":
        assert status in (0, -signal.SIGKILL)
        killing.check_dead()
    else:
        assert status == 0, killing.device.lines()
        assert killing.device.leftovers() == []
        killing.check()
    killing.plan("stop")


def come_up_and_die(killing: Killing, federation: Federation) -> None:
    """What was cut short so often comes up, works, and is killed once more."""
    killing.plan("start")
    killing.start()
    killing.wait_up()
    killing.squat()
    killing.check()
    order(killing, federation)
    killing.device.kill()
    killing.check_dead()


def finish(killing: Killing, federation: Federation) -> None:
    """A last life, after which nothing is left."""
    for phase in ("start", "round", "stop"):
        killing.plan(phase)
    killing.start()
    killing.wait_up()
    killing.unsquat()
    order(killing, federation)
    assert killing.device.stop().status == 0
    assert killing.device.leftovers() == []
    killing.check()
