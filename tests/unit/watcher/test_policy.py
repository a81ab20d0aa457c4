# SPDX-License-Identifier: Apache-2.0
"""policy.py: every role, rule and mode has the verdict that the design says, and nothing else acts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebound.events import Event, Kind, Program, Role, Rule
from homebound.watcher import policy
from homebound.watcher.policy import (
    SEALED,
    WATCHED,
    Action,
    CanaryResult,
    Denied,
    Mode,
    Observation,
    Sent,
    Unexplained,
    decide,
    decide_event,
)

MODES: tuple[Mode, ...] = ("enforce", "observe")


def event(kind: Kind = Kind.DENIED, role: Role = Role.TRAINER, rule: Rule = Rule.IO_URING) -> Event:
    return Event(
        kind=kind, role=role, rule=rule, program=Program.SYSCALL_EXIT, time_ns=1, cgroup=1, pid=1, tid=1,
        family=0, protocol=0, address="", port=0, syscall=425, result=-1, detail=0, error=0,
    )  # fmt: skip


def test_watched_and_sealed_are_those_of_the_design() -> None:
    assert {role.label for role in WATCHED} == {"trainer", "guard", "gateway", "watcher"}
    assert {role.label for role in SEALED} == {"trainer", "guard"}


@pytest.mark.parametrize(("role", "rule", "mode"), list(itertools.product(Role, Rule, MODES)))
def test_a_denied_attempt(role: Role, rule: Rule, mode: Mode) -> None:
    verdict = decide(Denied(role, rule, 23), mode)
    if role not in WATCHED:
        assert (verdict.action, verdict.violations) == (Action.ALLOW, 0)
        return
    assert (verdict.action, verdict.rule, verdict.violations) == (Action.DENY, rule.label, 23)
    assert verdict.stops == ()
    assert verdict.reason == f"the {role.label} tried {rule.label}"
    # In observe mode our own programs let it pass; seccomp, namespaces and Landlock do not.
    assert verdict.enforced == (mode == "enforce" or 20 <= rule < 40)


@pytest.mark.parametrize("rule", Rule)
def test_an_event_gets_the_verdict_of_its_count(rule: Rule) -> None:
    for role, mode in itertools.product(Role, MODES):
        assert decide_event(event(role=role, rule=rule), mode) == decide(Denied(role, rule, 1), mode)


def test_events_that_report_no_refusal_are_allowed() -> None:
    assert decide_event(event(Kind.ROLE_EXIT), "enforce").action is Action.ALLOW


@pytest.mark.parametrize("mode", MODES)
def test_a_byte_of_a_sealed_role_ends_it(mode: Mode) -> None:
    trainer = decide(Sent(Role.TRAINER, 1), mode)
    assert (trainer.action, trainer.stops, trainer.violations) == (Action.KILL, (Role.TRAINER,), 1)
    assert trainer.enforced == (mode == "enforce")
    guard = decide(Sent(Role.GUARD, 23), mode)
    assert guard.action is Action.KILL
    assert set(guard.stops) == {Role.GUARD, Role.TRAINER}


@pytest.mark.parametrize("role", sorted(set(Role) - SEALED))
def test_other_roles_may_send(role: Role) -> None:
    assert decide(Sent(role, 10**9), "enforce").action is Action.ALLOW


def test_nothing_sent_is_nothing() -> None:
    assert decide(Sent(Role.TRAINER, 0), "enforce").action is Action.ALLOW


def test_unexplained_bytes_are_a_violation_of_the_gateway() -> None:
    verdict = decide(Unexplained(23), "enforce")
    assert (verdict.role, verdict.rule, verdict.count, verdict.violations) == (
        Role.GATEWAY, "unaccounted", 23, 1,
    )  # fmt: skip
    assert decide(Unexplained(0), "enforce").violations == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_canary_ends_the_trainer(mode: Mode) -> None:
    verdict = decide(CanaryResult(1), mode)
    assert (verdict.action, verdict.stops) == (Action.KILL, (Role.TRAINER,))
    assert verdict.enforced == (mode == "enforce")
    assert decide(CanaryResult(0), mode).action is Action.ALLOW


OBSERVATIONS: st.SearchStrategy[Observation] = st.one_of(
    st.builds(Denied, st.sampled_from(Role), st.sampled_from(Rule), st.integers(0, 2**63)),
    st.builds(Sent, st.sampled_from(Role), st.integers(0, 2**63)),
    st.builds(Unexplained, st.integers(0, 2**63)),
    st.builds(CanaryResult, st.integers(0, 100)),
)


@given(OBSERVATIONS)
def test_modes_differ_only_in_what_is_carried_out(observation: Observation) -> None:
    enforced, observed = decide(observation, "enforce"), decide(observation, "observe")
    assert (enforced.action, enforced.rule, enforced.count) == (
        observed.action,
        observed.rule,
        observed.count,
    )
    assert not (observed.enforced and observed.action in (Action.FREEZE, Action.KILL))
    assert (enforced.violations > 0) == (enforced.action is not Action.ALLOW)
    assert bool(enforced.reason) == (enforced.action is not Action.ALLOW)


@pytest.mark.parametrize("role", sorted(policy.SEALED))
def test_a_move_out_of_a_sealed_role_ends_training(role: Role) -> None:
    verdict = policy.decide(policy.Attempted(role, Rule.CGROUP, 23), "enforce")
    assert (verdict.action, verdict.enforced, verdict.count) == (policy.Action.KILL, True, 23)
    assert Role.TRAINER in verdict.stops
    assert policy.decide(policy.Attempted(role, Rule.CGROUP, 23), "observe").enforced is False


def test_an_attempt_that_nothing_refused_is_a_violation() -> None:
    verdict = policy.decide(policy.Attempted(Role.GATEWAY, Rule.CGROUP, 23), "enforce")
    assert (verdict.action, verdict.violations, verdict.stops) == (policy.Action.DENY, 23, ())
    assert verdict.enforced is False, "nothing was refused"
    assert policy.decide(policy.Attempted(Role.CANARY, Rule.TRACE, 23), "enforce").violations == 0
    assert policy.decide(policy.Attempted(Role.TRAINER, Rule.TRACE, 23), "enforce").violations == 23
