# SPDX-License-Identifier: Apache-2.0
"""The privacy budget: the sums against an accountant of others, limits, and that nothing gives back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.books import epsilon
from homebound.guard import budget
from homebound.guard.budget import Tally
from homebound.settings import GuardSettings

LIMITED = GuardSettings(noise_multiplier=1.0, epsilon_limit=10.0, run_epsilon_limit=8.5)
# Releases of one run that fit into 8.5, and of all runs that fit into 10, at a noise multiplier of 1.
IN_RUN, IN_ALL = 3, 3
DELTAS = (1e-3, 1e-5, 1e-9)


def released(multiplier: float, count: int = 1, run: str = "r") -> Tally:
    one = budget.cost(replace(LIMITED, noise_multiplier=multiplier))
    spent = Tally()
    for _ in range(count):
        spent = spent.add(run, one)
    return spent


@pytest.mark.parametrize(
    ("multiplier", "count"), [(0.5, 1), (0.5, 23), (1.0, 100), (2.0, 7), (4.0, 3), (20.0, 1), (20.0, 500)]
)
def test_epsilon_is_that_of_dp_accounting(multiplier: float, count: int) -> None:
    """Its PLD accountant discretises, so it is above the exact value by a little; RDP is above by more."""
    event = dp_accounting.GaussianDpEvent(multiplier)
    exact, upper = pld.PLDAccountant(), rdp.RdpAccountant()
    exact.compose(event, count)
    upper.compose(event, count)
    for delta in DELTAS:
        ours = epsilon.epsilon(released(multiplier, count).total, delta)
        assert ours == pytest.approx(exact.get_epsilon(delta), rel=1e-5, abs=1e-5), delta
        assert ours <= upper.get_epsilon(delta), delta


def test_different_multipliers_add_up() -> None:
    """Noise 0.3 once and 2 five times, against the same accountant."""
    accountant = pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(0.6))
    accountant.compose(dp_accounting.GaussianDpEvent(2.0), 5)
    spent = Tally(released(0.6).total + released(2.0, 5).total)
    assert epsilon.epsilon(spent.total, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e5), st.floats(0.0, 1e4))
def test_delta_and_epsilon_agree(mu: float, eps: float) -> None:
    """Delta is a probability, falls with epsilon, and epsilon() inverts it. Nothing overflows on the way."""
    delta = epsilon.delta_at(eps, mu)
    assert -1e-15 <= delta <= 1.0
    assert epsilon.delta_at(eps + 0.1, mu) <= delta + 1e-15
    if 1e-12 < delta < 0.5:
        assert epsilon.epsilon(mu * mu, delta) == pytest.approx(eps, rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.just(0.0) | st.floats(1e-15, 1e12), st.sampled_from([1e-12, 1e-5, 0.1]))
def test_what_is_told_covers_delta(mu_squared: float, delta: float) -> None:
    told = epsilon.epsilon(mu_squared, delta)
    assert math.isfinite(told)
    # Where mu is about 1e-8, delta_at() itself is right to a millionth only, and below that it is no measure:
    # its two terms cancel. Less than 1e-15 would be a noise multiplier above thirty million.
    assert mu_squared == 0 or epsilon.delta_at(told, math.sqrt(mu_squared)) <= delta * (1 + 1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.01, 1.0, 4.0, math.inf])), max_size=12))
def test_sums_never_fall_and_do_not_depend_on_the_order(paid: list[tuple[str, float]]) -> None:
    spent, before = Tally(), 0.0
    for run, cost in paid:
        spent = spent.add(run, cost)
        assert spent.total >= before
        before = spent.total
    entries: list[dict[str, Any]] = [
        {"run": run, "message_type": "train", "cost": budget.as_detail(cost)} for run, cost in reversed(paid)
    ]
    read = budget.tally(entries)
    assert read.total == pytest.approx(spent.total)
    assert set(read.runs) == set(spent.runs)
    assert all(read.runs[run] == pytest.approx(total) for run, total in spent.runs.items())


@pytest.mark.parametrize("paid", [None, -1.0, "0", True, [], float("nan")])
def test_a_cost_that_makes_no_sense_is_no_refund(paid: Any) -> None:
    entry = {"run": "r", "message_type": "train", "cost": paid}
    assert budget.tally([entry]).total == math.inf
    del entry["cost"]
    assert budget.tally([entry]).total == math.inf
    assert budget.tally([{"run": "r", "message_type": "train", "cost": 4.0}]).total == 4.0
    assert budget.tally([{"run": "r", "message_type": "evaluate"}]).total == 0.0


def test_the_limits_hold_by_run_and_in_all() -> None:
    assert [budget.affords(released(1.0, n), "r", LIMITED) for n in range(6)] == [True] * IN_RUN + [False] * 3
    # The run is new, everything before counts all the same.
    wide = replace(LIMITED, run_epsilon_limit=0.0)
    assert budget.affords(released(1.0, IN_ALL, "old"), "new", wide)
    assert not budget.affords(released(1.0, IN_ALL + 1, "old"), "new", wide)
    assert budget.affords(released(1.0, 10**6, "old"), "new", replace(wide, epsilon_limit=0.0))


def test_no_limit_holds_what_has_no_noise() -> None:
    bare = replace(LIMITED, noise_multiplier=0.0)
    assert budget.cost(bare) == math.inf
    assert budget.cost(replace(LIMITED, noise_multiplier=1e-200)) == math.inf
    assert not budget.affords(Tally(), "r", bare)
    unlimited = replace(bare, epsilon_limit=0.0, run_epsilon_limit=0.0)
    assert budget.affords(Tally(), "r", unlimited)
    # And what once left without noise stays spent.
    assert not budget.affords(Tally().add("r", math.inf), "other", LIMITED)
    assert budget.affords(Tally(), "other", LIMITED)


def test_the_shipped_limits_in_rounds() -> None:
    """What the defaults mean, so that a change of one is seen: docs/privacy.md names these figures."""
    shipped = GuardSettings()
    one = budget.cost(shipped)
    rounds = [
        count for count in range(300) if budget.affords(Tally(count * one, {"r": count * one}), "r", shipped)
    ]
    whole = [count for count in range(300) if budget.affords(Tally(count * one, {}), "new", shipped)]
    assert (len(rounds), len(whole)) == (91, 188)


def test_no_clock_takes_part() -> None:
    """Nothing in the room of sums knows the time, so no change of a clock can give anything back."""
    names = {name for module in (budget, epsilon) for name in vars(module) if not name.startswith("_")}
    assert not names & {"time", "datetime", "monotonic"}
