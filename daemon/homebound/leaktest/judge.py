# SPDX-License-Identifier: Apache-2.0
"""From what was tried, heard and counted to one outcome a channel. Pure: no clock, file or kernel.

The attempt says whether it could send, the receiver whether the token arrived, the control whether the
same attempt works outside, the kernel's counters and events which wall it met. None is believed alone.
Imports events, leaktest.target, metrics.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homebound.events import Rule
from homebound.leaktest.target import Named
from homebound.metrics import denied_rule

# An event of a packet can come from a softirq, a little after the call; attempts are 20 ms apart.
LATE_NS = 10_000_000

CGROUP_BPF = frozenset(
    {Rule.SOCK_CREATE, Rule.CONNECT4, Rule.CONNECT6, Rule.SENDMSG4, Rule.SENDMSG6, Rule.EGRESS}
)
LSM = tuple(rule for rule in Rule if rule.label.startswith("lsm_"))
SOCKET = frozenset(
    {Rule.SOCKET_STREAM, Rule.SOCKET_DATAGRAM, Rule.SOCKET_RAW, Rule.SOCKET_PACKET, Rule.SOCKET_VSOCK}
    | {Rule.SOCKET_UNIX, Rule.SOCKET_NETLINK, Rule.SOCKET_OTHER}
)
CALL = frozenset({Rule.IO_URING, Rule.NAMESPACE, Rule.TRACE, Rule.KERNEL})
# What an empty network namespace or a mount view without the path answers (connect(2), ip(7), open(2)).
NAMESPACE_ERRORS = frozenset(
    {"ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "ENODEV", "ENXIO", "ENOENT", "EROFS"}
    | {"ESRCH"}
)
# Walls that refuse no call: what they hold does not happen.
SILENT = frozenset({"no-core-dump", "no-swap"})
# How seccomp ends a process; see target.Killed.
KILLED = "SIGSYS"


@dataclass(frozen=True)
class Result:
    """One line of homebound.leaktest.attempts."""

    name: str
    number: int
    begin_ns: int
    end_ns: int
    sent: bool
    errno: str
    detail: str


@dataclass(frozen=True)
class Facts:
    """What the process that tried said of its own walls; ``landlock`` is None when it was not tried,
    ``links`` -1 when it is not known how many network devices it has beside its loopback."""

    seccomp: int
    socket_refused: bool
    landlock: bool | None
    capabilities: int
    uid: int
    links: int = -1


@dataclass(frozen=True)
class Control:
    """Whether the same attempt works outside the sandbox, and if not why."""

    passed: bool
    reason: str


@dataclass(frozen=True)
class Denial:
    """One event of the kernel: when (CLOCK_MONOTONIC) and by which rule."""

    time_ns: int
    rule: Rule


@dataclass(frozen=True)
class Evidence:
    """All that is known. Maps are by channel name; ``deltas`` is how far each denied counter moved.
    ``enforced``: the kernel programs denied what they counted."""

    results: Sequence[Result]
    arrived: Mapping[str, bool]
    controls: Mapping[str, Control]
    denials: Sequence[Denial] = ()
    deltas: Mapping[Rule, int] = field(default_factory=dict)
    facts: Facts | None = None
    enforced: bool = True


@dataclass(frozen=True)
class Outcome:
    """One channel. ``control`` is "passed" or "not applicable"; neither blocked nor out means unclear."""

    name: str
    number: int
    out: bool
    blocked: bool
    wall: str
    counted: str
    control: str
    reason: str


def read_lines(lines: Iterable[str], prefix: str = "") -> tuple[Facts | None, list[Result]]:
    """Read what the attempts wrote; lines that are not theirs are passed over.

    A line that is half a result is passed over too: its channel then has no answer, which is not "blocked".
    """
    facts: Facts | None = None
    results = []
    for line in lines:
        if not line.startswith(prefix):
            continue
        try:
            value = json.loads(line[len(prefix) :])
            if "facts" in value:
                facts = Facts(**value["facts"])
            else:
                results.append(_result(value))
        except (ValueError, TypeError, KeyError):
            continue
    return facts, results


def _result(value: Mapping[str, Any]) -> Result:
    return Result(
        name=str(value["name"]),
        number=int(value["number"]),
        begin_ns=int(value["begin_ns"]),
        end_ns=int(value["end_ns"]),
        sent=bool(value["sent"]),
        errno=str(value["errno"]),
        detail=str(value["detail"]),
    )


def judge(channels: Sequence[Named], evidence: Evidence) -> list[Outcome]:
    """Return one outcome for each channel, in their order."""
    results = {result.name: result for result in evidence.results}
    return [_outcome(channel, results.get(channel.NAME), evidence) for channel in channels]


def _outcome(channel: Named, result: Result | None, evidence: Evidence) -> Outcome:
    control = evidence.controls.get(channel.NAME, Control(passed=False, reason="the control was not run"))
    arrived = evidence.arrived.get(channel.NAME, False)
    refused = result is not None and not result.sent and is_refusal(result.errno)
    lost = result is not None and result.sent and not arrived and is_lost(channel, evidence.facts)
    out = arrived or (result is not None and result.sent and not lost)
    rules = rules_met(channel, result, evidence)
    blocked = (refused or lost) and not out and control.passed
    return Outcome(
        name=channel.NAME,
        number=channel.NUMBER,
        out=out,
        blocked=blocked,
        wall=_wall(channel, result, rules, evidence) if blocked and result else "",
        counted=_counted(rules, evidence.deltas),
        control="passed" if control.passed else "not applicable",
        reason=_reason(result, arrived=arrived, refused=refused or lost, control=control),
    )


def _wall(channel: Named, result: Result, rules: Sequence[Rule], evidence: Evidence) -> str:
    denying = rules if evidence.enforced else [rule for rule in rules if rule not in CGROUP_BPF]
    if result.sent:
        return "namespaces"
    return wall_of(result.errno, denying, evidence.facts, channel.WALLS)


def is_lost(channel: Named, facts: Facts | None) -> bool:
    """Whether bytes that the kernel took went nowhere: a network of its own that has no device but
    loopback."""
    alone = facts is not None and facts.links == 0
    return alone and channel.DELIVERS and "namespaces" in channel.WALLS


def _reason(result: Result | None, *, arrived: bool, refused: bool, control: Control) -> str:
    if arrived:
        return "the token arrived" + (f": {result.detail}" if result else "")
    if result is None:
        return "the attempt gave no answer" if control.passed else control.reason
    if not control.passed and not result.sent:
        return control.reason
    return result.detail if refused or result.sent else f"the attempt met no refusal: {result.detail}"


def rules_met(channel: Named, result: Result | None, evidence: Evidence) -> list[Rule]:
    """Return the rules that denied the attempt, those of the channel first.

    They are those of the events in its time. Where events were lost, those of the channel whose counter
    moved further than all events of all attempts explain.
    """
    if result is None:
        return []
    own = [*(Rule[name.upper()] for name in channel.RULES), *LSM]
    seen = {
        denial.rule
        for denial in evidence.denials
        if result.begin_ns <= denial.time_ns <= result.end_ns + LATE_NS
    }
    if seen & set(own):
        return [rule for rule in own if rule in seen] + sorted(seen - set(own))
    explained: dict[Rule, int] = {}
    for denial in evidence.denials:
        explained[denial.rule] = explained.get(denial.rule, 0) + 1
    return [rule for rule in own if evidence.deltas.get(rule, 0) > explained.get(rule, 0)]


def _counted(rules: Sequence[Rule], deltas: Mapping[Rule, int]) -> str:
    moved = [rule for rule in rules if deltas.get(rule, 0) > 0]
    return f'denied{{rule="{denied_rule(moved[0].label)}"}}' if moved else ""


def is_refusal(error: str) -> bool:
    """Whether the attempt ended as a wall ends it: by an error of the kernel, or killed by the filter."""
    return error == KILLED or error in errno.errorcode.values()


def wall_of(error: str, rules: Sequence[Rule], facts: Facts | None, walls: Sequence[str]) -> str:
    """Return the wall that held, from the error, the rules met and the walls that can hold the channel; ""
    when it cannot be told."""
    met = set(rules)
    if met & set(LSM):
        return "bpf-lsm"
    if met & CGROUP_BPF:
        return "cgroup-bpf"
    if Rule.FOREIGN_FD in met or error == "EBADF":
        return "no-inherited-fd"
    if error == KILLED:
        return "seccomp"
    if error in NAMESPACE_ERRORS:
        return "namespaces"
    if error == "EACCES":
        # Without Landlock it is the file's own mode that refuses another user.
        return "users" if facts is not None and facts.landlock is False else "landlock"
    if error == "EPERM":
        return _who_said_eperm(met, facts, walls)
    return walls[0] if len(walls) == 1 and walls[0] in SILENT else ""


def _who_said_eperm(met: set[Rule], facts: Facts | None, walls: Sequence[str]) -> str:
    """EPERM is the filter's word, and the kernel's to a process that lacks a right (socket(2), kill(2))."""
    if facts is None:
        return "seccomp" if met & (SOCKET | CALL) else ""
    if met & CALL:
        return "seccomp" if facts.seccomp == 2 else "users"
    if facts.socket_refused and "seccomp" in walls:
        return "seccomp"
    if facts.capabilities == 0:
        return "users"
    return "landlock" if "landlock" in walls else ""


def walls_tried(outcomes: Sequence[Outcome], facts: Facts | None) -> dict[str, bool]:
    """Return each wall that was seen to hold (true) or tried and found open (false)."""
    walls = {outcome.wall: True for outcome in outcomes if outcome.wall}
    if facts is not None:
        walls.setdefault("seccomp", facts.socket_refused)
        if facts.landlock is not None:
            walls["landlock"] = facts.landlock
    return walls
