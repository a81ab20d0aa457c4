# SPDX-License-Identifier: Apache-2.0
"""The privacy budget: what releases have cost, summed exactly, and whether one more may be had. Pure.

A release with noise multiplier z is the Gaussian mechanism with mu = 1/z: the clip norm bounds the change,
and the neighbour of a device that takes part is one whose change is zero. Squares of mu add up, whatever was
seen of the earlier releases and however the multipliers differ (epsilon.py). So that sum is all that has to
be kept, and no clock takes part in it. Metrics and counters of integers get no noise and are in no epsilon:
bits.py counts them. May import: books.epsilon, settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from homebound.books.epsilon import epsilon
from homebound.settings import GuardSettings

# Where a release's cost stands in its ledger entry; None is a release without noise.
COST = "cost"


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
