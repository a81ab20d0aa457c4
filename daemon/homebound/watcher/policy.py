# SPDX-License-Identifier: Apache-2.0
"""What follows from what was seen: (observation, mode) -> verdict. The one place where that is decided.

Pure: no clock, file or kernel. Counters decide, since they are never lost; an event gets the same verdict
as the count it explains. In mode observe a verdict is the same, but it is not carried out.
May import: events.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, TypeAlias

from homebound.events import Event, Kind, Role, Rule

Mode = Literal["enforce", "observe"]

# Roles that do nothing but their work: any refused attempt of theirs is a violation. The canary tries on
# purpose; the supervisor is root and outside of the walls; a task of no role is on its way into one.
WATCHED = frozenset({Role.TRAINER, Role.GUARD, Role.GATEWAY, Role.WATCHER})
# Roles that see data or updates before they are released: they send nothing, ever.
SEALED = frozenset({Role.TRAINER, Role.GUARD})
# Rules of these numbers are refusals of seccomp, namespaces and Landlock, which deny in any mode; the others
# are those of our own programs, which mode observe lets pass.
RULES_OF_OTHER_WALLS = range(20, 40)


class Action(enum.StrEnum):
    """From nothing to the end of the process. A kill freezes first."""

    ALLOW = "allow"
    DENY = "deny"
    FREEZE = "freeze"
    KILL = "kill"


@dataclass(frozen=True)
class Denied:
    """``count`` new attempts of a role that a wall refused."""

    role: Role
    rule: Rule
    count: int


@dataclass(frozen=True)
class Attempted:
    """``count`` new attempts of a role that nothing refused."""

    role: Role
    rule: Rule
    count: int


@dataclass(frozen=True)
class Sent:
    """``bytes`` newly sent by a role, as IP bytes on the wire."""

    role: Role
    bytes: int


@dataclass(frozen=True)
class Unexplained:
    """``bytes`` of the gateway that newly stood unaccounted for longer than the grace."""

    bytes: int


@dataclass(frozen=True)
class CanaryResult:
    """How many of the canary's attempts were not refused."""

    out: int


@dataclass(frozen=True)
class Strange:
    """``count`` new sockets of the gateway whose other end is none that it may reach."""

    count: int


Observation: TypeAlias = Denied | Attempted | Sent | Unexplained | CanaryResult | Strange


@dataclass(frozen=True)
class Verdict:
    """``count``: attempts or bytes, by the rule. ``stops``: the roles to freeze or kill, if ``enforced``.
    ``violations``: how many it makes; 0 for none."""

    action: Action
    role: Role
    rule: str
    reason: str
    count: int
    enforced: bool = True
    stops: tuple[Role, ...] = ()
    violations: int = 0


def decide(observation: Observation, mode: Mode) -> Verdict:
    """The verdict. Raises nothing; every observation has one."""
    match observation:
        case Denied():
            return _denied(observation, mode)
        case Attempted():
            return _attempted(observation, mode)
        case Sent(role, sent) if role in SEALED and sent > 0:
            return _stop(role, "transmit", f"the {role.label} sent {sent} bytes", sent, mode)
        case Sent(role, sent):
            return Verdict(Action.ALLOW, role, "transmit", "", sent)
        case Unexplained(stood):
            action = Action.DENY if stood > 0 else Action.ALLOW
            reason = "the gateway sent bytes that nothing explains" if stood > 0 else ""
            # They are out: nothing was refused in either mode.
            return Verdict(
                action, Role.GATEWAY, "unaccounted", reason, stood, enforced=False, violations=int(stood > 0)
            )
        case Strange(count):
            action = Action.DENY if count > 0 else Action.ALLOW
            reason = f"the gateway has {count} sockets to where it may not send" if count > 0 else ""
            # The kernel lists them; what they send is for the other walls to refuse.
            return Verdict(
                action, Role.GATEWAY, "destination", reason, count, enforced=False, violations=max(0, count)
            )
        case CanaryResult(out) if out > 0:
            return _stop(Role.CANARY, "canary", f"{out} attempts of the canary got out", out, mode)
        case CanaryResult(out):
            return Verdict(Action.ALLOW, Role.CANARY, "canary", "", out)


def decide_event(event: Event, mode: Mode) -> Verdict:
    """The verdict on one event of the ring buffer; kinds that report no refusal are allowed."""
    if event.kind is Kind.DENIED and event.rule is not None:
        return decide(Denied(event.role, event.rule, 1), mode)
    if event.kind is Kind.ATTEMPT and event.rule is not None:
        return decide(Attempted(event.role, event.rule, 1), mode)
    return Verdict(Action.ALLOW, event.role, "", "", 0)


def _denied(seen: Denied, mode: Mode) -> Verdict:
    rule = seen.rule.label
    if seen.role not in WATCHED or seen.count <= 0:
        return Verdict(Action.ALLOW, seen.role, rule, "", seen.count)
    refused = mode == "enforce" or seen.rule in RULES_OF_OTHER_WALLS
    reason = f"the {seen.role.label} tried {rule}"
    return Verdict(Action.DENY, seen.role, rule, reason, seen.count, refused, violations=seen.count)


def _attempted(seen: Attempted, mode: Mode) -> Verdict:
    """Nothing refused it. A move out of a role that sees data, or into it, takes its wall away."""
    rule = seen.rule.label
    if seen.role not in WATCHED or seen.count <= 0:
        return Verdict(Action.ALLOW, seen.role, rule, "", seen.count)
    if seen.rule is Rule.CGROUP and seen.role in SEALED:
        reason = f"a process left or entered the cgroup of the {seen.role.label}"
        return _stop(seen.role, rule, reason, seen.count, mode)
    reason = f"the {seen.role.label} did {rule}, and no wall refused it"
    return Verdict(Action.DENY, seen.role, rule, reason, seen.count, enforced=False, violations=seen.count)


def _stop(role: Role, rule: str, reason: str, count: int, mode: Mode) -> Verdict:
    # The wall that failed is the trainer's too, whoever showed it.
    stops = (Role.TRAINER,) if role in (Role.CANARY, Role.TRAINER) else (Role.TRAINER, role)
    return Verdict(Action.KILL, role, rule, reason, count, mode == "enforce", stops, violations=1)
