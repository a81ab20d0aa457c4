# SPDX-License-Identifier: Apache-2.0
"""The privacy budget: what releases have cost, summed exactly, and whether one more may be had. Pure.

A release with noise multiplier z is the Gaussian mechanism with mu = 1/z: the clip norm bounds the change,
and the neighbour of a device that takes part is one whose change is zero. Gaussian mechanisms compose to a
Gaussian mechanism whose mu squared is the sum (Dong, Roth, Su 2019, "Gaussian differential privacy",
corollary 3.3), whatever was seen of the earlier ones and however the multipliers differ. So that sum is all
that has to be kept, no clock takes part in it, and epsilon follows by theorem 8 of Balle and Wang 2018:
delta = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu). It is tight; no table and no scipy is needed.
Metrics and counters of integers get no noise and are in no epsilon: bits.py counts them.
May import: settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homebound.settings import GuardSettings

# Where a release's cost stands in its ledger entry; None is a release without noise.
COST = "cost"
# The spent epsilon is told a hair too high rather than too low: sums and bisection err by less.
ROUNDING = 1 + 1e-9
# Above this erfc() of a double is 0 or loses digits; below it exp() of the square is far from its limit.
FAR = 5.0


@dataclass(frozen=True)
class Tally:
    """Summed costs (mu squared; infinite once something left without noise), in all and by federation run."""

    total: float = 0.0
    runs: Mapping[str, float] = field(default_factory=dict)

    def add(self, run: str, cost: float) -> Tally:
        """With one release more. There is no way to take one away."""
        return Tally(self.total + cost, {**self.runs, run: self.runs.get(run, 0.0) + cost})


@dataclass(frozen=True)
class Loss:
    """Epsilon at the settings' delta, of one run and of everything."""

    run: float
    total: float


def tally(entries: Iterable[Mapping[str, Any]]) -> Tally:
    """The sums of all releases, from the details of their ledger entries, in any order.

    An answer to a train task whose cost is not written or makes no sense counts as one without noise.
    """
    total, runs = 0.0, dict[str, float]()
    for details in entries:
        paid, run = _paid(details), str(details.get("run"))
        total += paid
        runs[run] = runs.get(run, 0.0) + paid
    return Tally(total, runs)


def _paid(details: Mapping[str, Any]) -> float:
    if details.get("message_type") != "train":
        return 0.0
    paid = details.get(COST)
    known = isinstance(paid, int | float) and not isinstance(paid, bool) and paid >= 0
    return float(paid) if known else math.inf  # type: ignore[arg-type]


def cost(settings: GuardSettings) -> float:
    """What an answer to a train task costs: 1 / noise_multiplier squared, infinite without noise."""
    noise = settings.noise_multiplier
    # A multiplier below 1e-154 has no square.
    return 1.0 / noise**2 if noise > 1e-150 else math.inf


def as_detail(paid: float) -> float | None:
    """A cost as it stands in an entry, where JSON has no infinity."""
    return paid if math.isfinite(paid) else None


def loss(spent: Tally, run: str, delta: float) -> Loss:
    """Epsilon of everything that was released so far."""
    return Loss(epsilon(spent.runs.get(run, 0.0), delta), epsilon(spent.total, delta))


def affords(spent: Tally, run: str, settings: GuardSettings) -> bool:
    """Whether one more answer to a train task stays within both limits. A limit of 0 is none."""
    after = loss(spent.add(run, cost(settings)), run, settings.delta)
    limits = ((after.run, settings.run_epsilon_limit), (after.total, settings.epsilon_limit))
    return all(not limit or reached <= limit for reached, limit in limits)


def epsilon(mu_squared: float, delta: float) -> float:
    """The least epsilon at ``delta`` (0 < delta < 1) of a Gaussian mechanism with this mu squared."""
    if not math.isfinite(mu_squared):
        return math.inf
    mu = math.sqrt(mu_squared)
    if mu == 0.0 or delta_at(0.0, mu) <= delta:
        return 0.0
    # At this epsilon (the classical bound, valid for any mu) delta_at() is below delta.
    low, high = 0.0, mu_squared / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    while (middle := (low + high) / 2) not in (low, high):
        if delta_at(middle, mu) <= delta:
            high = middle
        else:
            low = middle
    return high * ROUNDING


def delta_at(eps: float, mu: float) -> float:
    """The least delta at which a Gaussian mechanism with ``mu`` > 0 is (eps, delta) private.

    exp(eps) times the density at the second point is the density at the first, so the formula is the
    density there times a difference of Mills ratios, and nothing in it overflows.
    """
    near, far = eps / mu - mu / 2, eps / mu + mu / 2
    if near < -FAR:
        return 1.0 - upper_tail(-near) - density(near) * mills(far)
    return density(near) * (mills(near) - mills(far))


def density(x: float) -> float:
    """The standard normal density."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def upper_tail(x: float) -> float:
    """How likely a standard normal number is above ``x``."""
    return math.erfc(x / math.sqrt(2)) / 2


def mills(x: float) -> float:
    """upper_tail(x) / density(x), also where both are 0 in a double."""
    if x < FAR:
        return upper_tail(x) / density(x)
    # Laplace's continued fraction (Abramowitz and Stegun 26.2.14), from its 60th term back: for x >= 5 the
    # rest is below the last digit.
    value = x
    for term in range(60, 0, -1):
        value = x + term / value
    return 1.0 / value
