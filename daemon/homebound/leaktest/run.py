# SPDX-License-Identifier: Apache-2.0
"""``homebound leaktest``: receivers outside, attempts inside, controls outside, then the verdict.

Runs as root on the operator's host, never inside a sandbox; listens on loopback and on names of its own.
What starts the sandbox and what reads the kernel's counters are arguments, so that any sandbox can be tried.
Imports errors, events, judge, attempts.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from homebound.errors import HomeboundError, UsageError
from homebound.events import Rule
from homebound.leaktest.attempts import CHANNELS, Channel
from homebound.leaktest.elsewhere import ALL, HELD_ELSEWHERE, Elsewhere
from homebound.leaktest.judge import (
    Control,
    Denial,
    Evidence,
    Outcome,
    judge,
    read_lines,
    walls_tried,
)
from homebound.leaktest.receiver import Receiver
from homebound.leaktest.target import Target

SCHEMA = 1
NOT_APPLICABLE = "not applicable"
# What is on its way over loopback or through a pipe is there long before.
GRACE_SECONDS = 0.2
CONTROL_SECONDS = 30
ARRIVAL_SECONDS = 2.0
TOKEN_BYTES = 16
# A place may have other values for the sandbox: there everything is tried, while the control asks the host
# only for what does nothing.
INSIDE = "inside"
# Receivers are not in /tmp, because a sandbox has one of its own and may write there.
LASTING = "/var/tmp"
# The folder above the package: what a control's Python needs to find it.
PACKAGE_ROOT = Path(__file__).parents[2]

# Runs ``python -m homebound.leaktest.attempts ARGUMENT...`` in a sandbox and returns its standard output.
Launcher = Callable[[Sequence[str]], str]


class Watch(Protocol):
    """The kernel's side of the evidence, for the role that the attempts run as."""

    @property
    def enforces(self) -> bool:
        """Whether the kernel programs deny what they count."""

    def denied(self) -> Mapping[Rule, int]:
        """Read the denied counters."""

    def denials(self) -> Sequence[Denial]:
        """Take the events that came since the last call."""


@dataclass(frozen=True)
class Unwatched:
    """No kernel programs are loaded: nothing is counted."""

    enforces: bool = False

    def denied(self) -> Mapping[Rule, int]:
        """Read nothing."""
        return {}

    def denials(self) -> Sequence[Denial]:
        """Take nothing."""
        return ()


@dataclass(frozen=True)
class Report:
    """All outcomes on one kernel. ``walls``: each wall that was tried, and whether it held; ``without``: the
    walls that were left out; ``elsewhere``: the ways out that were asked for and cannot be tried."""

    kernel: str
    channels: tuple[Outcome, ...]
    walls: Mapping[str, bool]
    without: tuple[str, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()

    @property
    def out(self) -> bool:
        """Whether anything got out."""
        return any(outcome.out for outcome in self.channels)

    @property
    def exit_status(self) -> int:
        """0 all held or not applicable, 4 something got out, 1 something is unclear."""
        unclear = any(not o.out and not o.blocked and o.control == "passed" for o in self.channels)
        return 4 if self.out else int(unclear)

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return {
            "schema": SCHEMA,
            "kernel": self.kernel,
            "channels": [asdict(outcome) for outcome in self.channels],
            "walls": dict(self.walls),
            "without": list(self.without),
            "elsewhere": [asdict(row) for row in self.elsewhere],
            "out": self.out,
        }

    def summary(self) -> str:
        """Return one line: how many ways were tried, how many got out, how many of the rest were counted."""
        words = [verdict(outcome) for outcome in self.channels]
        tried = len(words) - words.count(NOT_APPLICABLE)
        counted = sum(bool(outcome.counted) for outcome in self.channels if outcome.blocked)
        return (
            f"ways out tried: {tried}; got out: {words.count('OUT')}; blocked: {words.count('blocked')}; "
            f"counted by the kernel: {counted}"
        )

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return number, channel, verdict, wall and counter of each channel that applies, for a table."""
        return [
            (str(o.number), o.name, verdict(o), o.wall or "-", o.counted or "-")
            for o in self._by_number()
            if verdict(o) != NOT_APPLICABLE
        ]

    def rows_not_applicable(self) -> list[tuple[str, str, str]]:
        """Return number, channel and the reason of each one that this host does not have."""
        return [(str(o.number), o.name, o.reason) for o in self._by_number() if verdict(o) == NOT_APPLICABLE]

    def _by_number(self) -> list[Outcome]:
        return sorted(self.channels, key=lambda outcome: outcome.number)

    def rows_elsewhere(self) -> list[tuple[str, str, str]]:
        """Return number, name and what holds each way out that cannot be tried, for a table."""
        return [(str(row.number), row.name, row.held) for row in self.elsewhere]


def verdict(outcome: Outcome) -> str:
    """Return one word for an outcome: out, blocked, "not applicable" or unclear."""
    if outcome.out:
        return "OUT"
    if outcome.blocked:
        return "blocked"
    return "unclear" if outcome.control == "passed" else NOT_APPLICABLE


def choose(numbers: Sequence[int]) -> tuple[tuple[Channel, ...], tuple[Elsewhere, ...]]:
    """Return the channels of these numbers and what is held elsewhere, all when there are none.

    Raises UsageError for an unknown number.
    """
    for number in numbers:
        if number not in ALL:
            raise UsageError(f"there is no way out of number {number}", f"take one of 1 to {len(ALL)}")
    channels = tuple(channel for channel in CHANNELS if not numbers or channel.NUMBER in numbers)
    return channels, tuple(row for row in HELD_ELSEWHERE if not numbers or row.number in numbers)


def leaktest(channels: Sequence[Channel], launch: Launcher, watch: Watch) -> Report:
    """Try the channels in the sandbox that ``launch`` starts, with a control for each, and judge.

    The controls come last: a receiver that hears them was alive while the sandbox tried.
    """
    token = os.urandom(TOKEN_BYTES).hex()
    with receivers(channels) as heard:
        before = watch.denied()
        watch.denials()
        lines = launch(["--target", heard.target(token).to_json()]).splitlines()
        time.sleep(GRACE_SECONDS)
        deltas = {rule: count - before.get(rule, 0) for rule, count in watch.denied().items()}
        tried = Tried(token, lines, watch.denials(), deltas, enforced=watch.enforces)
        return conclude(channels, heard, tried)


@dataclass(frozen=True)
class Tried:
    """What came of a token. ``lines``: what the attempts wrote; ``deltas``: how far each counter moved."""

    token: str
    lines: Sequence[str]
    denials: Sequence[Denial] = ()
    deltas: Mapping[Rule, int] = field(default_factory=dict)
    prefix: str = ""
    enforced: bool = True


def conclude(channels: Sequence[Channel], heard: Heard, tried: Tried) -> Report:
    """Ask the receivers, run the controls and judge. The receivers must still listen."""
    arrived = {name: receiver.holds(tried.token) for name, receiver in heard.open.items()}
    facts, results = read_lines(tried.lines, tried.prefix)
    evidence = Evidence(
        results=results,
        arrived=arrived,
        controls={**run_controls(heard.open), **heard.missing},
        denials=tried.denials,
        deltas=tried.deltas,
        facts=facts,
        enforced=tried.enforced,
    )
    outcomes = judge(channels, evidence)
    return Report(kernel=platform.release(), channels=tuple(outcomes), walls=walls_tried(outcomes, facts))


@dataclass(frozen=True)
class Heard:
    """The receivers that listen, and why the others do not."""

    open: Mapping[str, Receiver]
    missing: Mapping[str, Control]

    def target(self, token: str, links: Sequence[int] = ()) -> Target:
        """Return what an attempt is told. A channel without a receiver is not tried.

        ``links``: descriptors that the sandboxed process was given on purpose.
        """
        places = {name: dict(receiver.place) for name, receiver in self.open.items()}
        for place in places.values():
            place.update(place.pop(INSIDE, {}))
            if "known" in place:
                place["known"] = list(links)
        return Target(token, places)


@contextmanager
def receivers(channels: Sequence[Channel]) -> Iterator[Heard]:
    """Open a receiver for each channel, in folders that any user may enter; remove all in the end."""
    opened: dict[str, Receiver] = {}
    missing: dict[str, Control] = {}
    with ExitStack() as stack:
        where = LASTING if Path(LASTING).is_dir() else None
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="homebound-leaktest-", dir=where)))
        top.chmod(0o755)
        for channel in channels:
            folder = top / channel.NAME
            folder.mkdir(mode=0o755)
            try:
                opened[channel.NAME] = stack.enter_context(channel.receiver(folder))
            except OSError as error:
                missing[channel.NAME] = Control(passed=False, reason=f"no receiver here: {error.strerror}")
        yield Heard(opened, missing)


def run_controls(listening: Mapping[str, Receiver]) -> dict[str, Control]:
    """Run the same attempts in a child outside of any sandbox, against the same receivers."""
    token = os.urandom(TOKEN_BYTES).hex()
    places = {name: dict(receiver.place) for name, receiver in listening.items()}
    for place in places.values():
        place.pop(INSIDE, None)
    target = Target(token, places)
    words = [sys.executable, "-B", "-s", "-m", "homebound.leaktest.attempts", "--target", target.to_json()]
    given = [receiver.place["fd"] for receiver in listening.values() if "fd" in receiver.place]
    try:
        child = subprocess.run(
            words,
            env={"PATH": os.defpath, "PYTHONPATH": str(PACKAGE_ROOT)},
            pass_fds=given,
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise HomeboundError(f"the controls did not run: {error}", "report this with the output") from error
    _, results = read_lines(child.stdout.splitlines())
    answers = {result.name: result for result in results}
    delivers = {channel.NAME: channel.DELIVERS for channel in CHANNELS}
    controls = {}
    for name, receiver in listening.items():
        answer = answers.get(name)
        if answer is None or not answer.sent:
            reason = answer.detail if answer else "no answer"
            controls[name] = Control(passed=False, reason=f"does not work outside either: {reason}")
        elif delivers[name] and not receiver.holds(token, ARRIVAL_SECONDS):
            controls[name] = Control(passed=False, reason="sent outside, but the receiver heard nothing")
        else:
            controls[name] = Control(passed=True, reason=answer.detail)
    return controls
