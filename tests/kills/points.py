# SPDX-License-Identifier: Apache-2.0
"""Every point at which somebody is killed, made from the steps that one life of the supervisor took.

The supervisor dies at each function of its own that begins, in each phase. A role dies at steps spread
evenly over those at which it may run, and at moments spread over a round, whatever the supervisor does then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

ROLES = ("watcher", "guard", "gateway", "trainer")
# The function with which a role begins; in a start it cannot be killed before.
BEGINS = {
    "watcher": "Roster.start_watcher",
    "guard": "Roster.start_data_path",
    "gateway": "Roster.start_data_path",
    "trainer": "Roster.start_trainer",
}
START_EACH, ROUND_EACH, STOP_EACH, MOMENTS_EACH = 4, 5, 2, 4
# Moments of a round in seconds from the order, a little longer than a round takes on a busy machine.
ROUND_SECONDS = 1.5


@dataclass(frozen=True)
class Point:
    """``step`` of the phase, or ``moment`` in seconds after the order of a round."""

    phase: str
    victim: str
    step: str = ""
    moment: float = 0.0


def spread(found: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of them, evenly."""
    if len(found) <= count:
        return list(found)
    return [found[i * len(found) // count] for i in range(count)]


def firsts(steps: Sequence[str]) -> list[str]:
    """The steps at which a function begins for the first time in the phase."""
    return [step for step in steps if step.endswith(":call:1")]


def every(steps: Mapping[str, Sequence[str]]) -> list[Point]:
    """All points, by the steps of each phase."""
    found = [
        Point(phase, "supervisor", step)
        for phase in ("start", "round", "stop")
        for step in firsts(steps[phase])
    ]
    for role in ROLES:
        begins = next(i for i, step in enumerate(steps["start"]) if f":{BEGINS[role]}:call" in step)
        found += [Point("start", role, step) for step in spread(steps["start"][begins:], START_EACH)]
        found += [Point("round", role, step) for step in spread(steps["round"], ROUND_EACH)]
        found += [Point("stop", role, step) for step in spread(firsts(steps["stop"]), STOP_EACH)]
    for role in ("supervisor", *ROLES):
        pause = ROUND_SECONDS / MOMENTS_EACH
        found += [Point("round", role, moment=pause * (i + 0.5)) for i in range(MOMENTS_EACH)]
    return found


def sample(points: Sequence[Point], count: int) -> list[Point]:
    """So many of them that each kind has its share, and at least one."""
    kinds: dict[tuple[str, bool], list[Point]] = {}
    for point in points:
        kinds.setdefault((point.phase, point.victim == "supervisor"), []).append(point)
    shares = {kind: max(1, count * len(those) // len(points)) for kind, those in kinds.items()}
    taken = [
        those[i * len(those) // shares[kind]] for kind, those in kinds.items() for i in range(shares[kind])
    ]
    rest = [point for point in points if point not in set(taken)]
    missing = max(0, count - len(taken))
    return taken + [rest[i * len(rest) // missing] for i in range(missing)]


def lives(points: Sequence[Point]) -> list[list[Point]]:
    """Points in lives of the daemon: at most one at the start, some in rounds, at most one that ends it.

    What kills the supervisor ends a life; a role's death does not.
    """
    ends = [p for p in points if p.phase == "stop" or (p.phase == "round" and p.victim == "supervisor")]
    begins = [p for p in points if p.phase == "start" and p.victim != "supervisor"]
    rounds = [p for p in points if p.phase == "round" and p.victim != "supervisor"]
    short = [[p] for p in points if p.phase == "start" and p.victim == "supervisor"]
    count = max(len(ends), len(begins), 1)
    each = -(-len(rounds) // count)
    whole = [[*begins[i : i + 1], *rounds[i * each : (i + 1) * each], *ends[i : i + 1]] for i in range(count)]
    return [life for life in chain(short, whole) if life]
