# SPDX-License-Identifier: Apache-2.0
"""Epsilon and delta of the Gaussian mechanism, in closed form: it is tight, so it needs no table. Pure.

A mechanism is named by mu, its sensitivity over its deviation. Gaussian mechanisms compose to a Gaussian one
whose mu squared is the sum (Dong, Roth, Su 2019, "Gaussian differential privacy", corollary 3.3). Then
delta = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu) (Balle and Wang 2018, theorem 8).
Tests hold it against dp-accounting. Imports nothing of ours.
"""

from __future__ import annotations

import math

# The spent epsilon is told a hair too high rather than too low: sums and bisection err by less.
ROUNDING = 1 + 1e-9
# Above this erfc() of a double is 0 or loses digits; below it exp() of the square is far from its limit.
FAR = 5.0


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
