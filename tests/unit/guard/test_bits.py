# SPDX-License-Identifier: Apache-2.0
"""The bits that an app can choose: the counts against what the guard really lets through, one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.guard import bits, checks
from homebound.guard.checks import EXAMPLES, METRIC_LIMIT
from homebound.settings import GuardSettings
from unit.guard.rig import metrics, model

SHIPPED = GuardSettings()


def leaves(name: str, digits: int, value: int | float) -> int | float:
    """What becomes of one metric."""
    allowed = {name: digits}
    said: Any = {name.replace("-", "_"): value}
    update = metrics(**said)
    checks.check_metrics(update, allowed)
    (record,) = checks.rounded_metrics(update, allowed)
    found: int | float = record.values[0]
    return found


def every(digits: int) -> set[float]:
    """Each value that can leave with so many digits, found by trying around each decade's steps."""
    found = set()
    for power in range(-digits, 10):
        step = 10.0 ** (power - digits if power > 0 else -digits)
        for k in range(10 ** (digits + 1) + 1):
            value = k * step
            if value <= METRIC_LIMIT:
                found |= {leaves("loss", digits, value), leaves("loss", digits, -value)}
    return found


@pytest.mark.parametrize("digits", [1, 2])
def test_metric_values_are_counted_exactly(digits: int) -> None:
    found = every(digits)
    assert len(found) == bits.metric_values("loss", digits)
    assert not any(math.copysign(1, value) < 0 for value in found if value == 0)


def test_whole_metrics_are_counted_exactly() -> None:
    found = {
        leaves("steps", 0, sign * k * 10**power)
        for power in range(9)
        for k in range(1001)
        for sign in (1, -1)
        if k * 10**power <= METRIC_LIMIT
    }
    assert len(found) == bits.metric_values("steps", 0)


def test_examples_are_counted_exactly() -> None:
    starts = {count for k in range(8) for power in range(30) if (count := k << power) <= METRIC_LIMIT}
    found = {leaves(EXAMPLES, 0, value) for value in starts} | {leaves(EXAMPLES, 0, METRIC_LIMIT)}
    assert len(found) == bits.metric_values(EXAMPLES, 0)
    assert bits.metric(EXAMPLES, 0) < 7


@settings(max_examples=300, deadline=None)
@given(st.integers(0, METRIC_LIMIT))
def test_a_bucket_is_at_most_a_fifth_below(count: int) -> None:
    found = leaves(EXAMPLES, 0, count)
    assert 0.8 * count <= found <= count
    assert leaves(EXAMPLES, 9, float(count)) == found
    assert leaves(EXAMPLES, 0, found) == found


@settings(max_examples=300, deadline=None)
@given(st.floats(-METRIC_LIMIT, METRIC_LIMIT), st.integers(0, 3))
def test_any_number_leaves_as_one_that_was_counted(value: float, digits: int) -> None:
    """Rounding twice changes nothing: there is no value between those of the grid."""
    found = leaves("loss", digits, value)
    assert leaves("loss", digits, found) == found
    assert abs(found) <= METRIC_LIMIT


def test_the_shipped_metrics_are_within_their_budget() -> None:
    update = metrics(num_examples=9, loss=1.0, accuracy=0.5)
    found = bits.metrics(update, SHIPPED.metrics)
    assert {name: round(value) for name, value in found.items()} == {EXAMPLES: 7, "loss": 14, "accuracy": 14}
    assert sum(found.values()) < SHIPPED.metric_bits


def test_the_channel_of_the_noise() -> None:
    """Grows with the numbers towards the limit that the documents name, and falls with the noise."""
    limit = 1 / (2 * SHIPPED.noise_multiplier**2 * math.log(2))
    found = [bits.weights(10**k, SHIPPED) for k in range(8)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(limit, rel=1e-4)
    assert found[-1] <= limit
    # One number with noise a tenth of its bound: half log2 of 101.
    assert found[0] == pytest.approx(math.log2(101) / 2)
    assert bits.weights(10**6, replace(SHIPPED, noise_multiplier=1.0)) == pytest.approx(0.7213, abs=1e-3)
    assert bits.weights(5, replace(SHIPPED, noise_multiplier=0.0)) == math.inf
    assert bits.weights(5, replace(SHIPPED, noise_multiplier=1e-200)) == math.inf
    assert bits.weights(0, replace(SHIPPED, noise_multiplier=0.0)) == 0.0


def test_counters() -> None:
    assert bits.counters(model(np.zeros(3))) == 0
    two = model(np.array(1), np.array([4]), np.array([True]), np.arange(3))
    assert bits.counters(two) == pytest.approx(20 + 2 * math.log2(3))


def test_the_whole() -> None:
    update = model(np.zeros(2560, np.float32), np.array(3)) + metrics(loss=0.5)
    found = bits.bound(update, SHIPPED)
    assert list(found) == ["weights", "metrics", "counters"]
    assert all(0 < value < 75 for value in found.values())
    assert bits.timing(600.0) == pytest.approx(math.log2(600_001))
