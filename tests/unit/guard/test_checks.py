# SPDX-License-Identifier: Apache-2.0
"""Each check lets an honest update pass and refuses a dishonest one with the right code."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.guard import checks
from homebound.guard.checks import Refusal
from homebound.records import Array, Record, RefusalCode
from unit.guard.rig import metrics, model

ALLOWED = {"num-examples": 0, "loss": 2, "accuracy": 2}
W = np.ones((2, 3), np.float32)
COUNTER = np.asarray(7, np.int64)


def code_of(check: Callable[..., None], *arguments: Any) -> RefusalCode | None:
    """The code a check refuses with, None when it lets pass."""
    try:
        check(*arguments)
    except Refusal as refusal:
        return refusal.code
    return None


def test_size() -> None:
    assert code_of(checks.check_size, 100, 100) is None
    assert code_of(checks.check_size, 101, 100) is RefusalCode.TOO_LARGE


def test_names() -> None:
    task = model(W, W)
    assert code_of(checks.check_names, task, model(W, W)) is None
    assert code_of(checks.check_names, (), metrics(loss=1.0)) is None
    swapped = (Record("arrays", "arrays", ("k1", "k0"), (W, W)),)
    for update in (
        model(W),
        model(W, W, W),
        swapped,
        model(W, W, name="other"),
        task + model(W, name="more"),
        (),
    ):
        assert code_of(checks.check_names, task, update) is RefusalCode.SCHEMA


def test_metrics_do_not_count_as_names() -> None:
    assert code_of(checks.check_names, model(W), metrics(loss=1.0) + model(W)) is None


def test_shapes() -> None:
    assert code_of(checks.check_shapes, model(W), model(W * 2)) is None
    for shape in ((3, 2), (6,), (2, 3, 1), (2, 2)):
        assert code_of(checks.check_shapes, model(W), model(np.ones(shape, np.float32))) is RefusalCode.SCHEMA


def test_dtypes() -> None:
    for name in ("float16", "float32", "float64", "int64", "uint8", "bool"):
        assert code_of(checks.check_dtypes, model(W.astype(name)), model(W.astype(name))) is None
    for name in ("float64", "float16", "int32", "complex64", "<U3", "object"):
        assert code_of(checks.check_dtypes, model(W), model(W.astype(name))) is RefusalCode.SCHEMA
    assert (
        code_of(checks.check_dtypes, model(W.astype("complex64")), model(W.astype("complex64"))) is not None
    )


def test_integers_may_face_their_average() -> None:
    """Averaging in the federation turns integer counters into float64."""
    assert code_of(checks.check_dtypes, model(np.asarray(7.0)), model(COUNTER)) is None
    assert code_of(checks.check_dtypes, model(np.asarray(7.0, np.float32)), model(COUNTER)) is not None


def test_known() -> None:
    assert code_of(checks.check_known, model(W, COUNTER)) is None
    assert code_of(checks.check_known, model(W, W.astype("complex64"))) is RefusalCode.SCHEMA


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_finite(dtype: str, bad: float) -> None:
    """One bad value in the last place of an array of more than one chunk."""
    array = np.zeros(checks.CHUNK + 1, dtype)
    assert code_of(checks.check_finite, model(W, COUNTER, array)) is None
    array[-1] = bad
    assert code_of(checks.check_finite, model(W, COUNTER, array)) is RefusalCode.NOT_FINITE


@pytest.mark.parametrize(
    ("task", "update", "code"),
    [
        ([7, 7], [7, 7], None),
        ([7, 7], [30, 30], None),
        ([7, 7], [30, 7], None),  # a frozen layer does not count
        ([7, 90], [30, 113], None),
        ([7, 7], [7 + checks.STEP_LIMIT] * 2, None),
        ([7, 7], [8 + checks.STEP_LIMIT] * 2, RefusalCode.SCHEMA),
        ([7, 7], [30, 31], RefusalCode.SCHEMA),
        ([7, 7], [6, 6], RefusalCode.SCHEMA),
        ([0, 0], [2**63 - 1, 2**63 - 1], RefusalCode.SCHEMA),
    ],
)
def test_counters(task: list[int], update: list[int], code: RefusalCode | None) -> None:
    wanted = model(W, *(np.asarray(value, np.int64) for value in task))
    given_ = model(W * 5, *(np.asarray(value, np.int64) for value in update))
    assert code_of(checks.check_counters, wanted, given_) is code
    averaged = model(W, *(np.asarray(value + 0.5, np.float64) for value in task))
    assert code_of(checks.check_counters, averaged, given_) is code


@pytest.mark.parametrize("array", [np.arange(4), np.asarray([True, False]), np.asarray(True)])
def test_integer_arrays_stay(array: Array) -> None:
    assert code_of(checks.check_counters, model(array), model(array.copy())) is None
    changed = array.copy()
    changed.flat[0] = not changed.flat[0]
    assert code_of(checks.check_counters, model(array), model(changed)) is RefusalCode.SCHEMA


def test_records() -> None:
    assert code_of(checks.check_records, model(W)) is None
    assert code_of(checks.check_records, model(W) + metrics("any", loss=1.0)) is None
    config = (Record("config", "config", ("note",), ("hello",)),)
    for update in (model(W) + config, metrics("a", loss=1.0) + metrics("b", loss=1.0)):
        assert code_of(checks.check_records, update) is RefusalCode.METRIC_NOT_ALLOWED


def test_metrics() -> None:
    assert code_of(checks.check_metrics, metrics(num_examples=9, loss=-1.5, accuracy=1), ALLOWED) is None
    for value in ([1.0, 2.0], True, "1", None, 2e9, -2e9, 10**5000):
        assert code_of(checks.check_metrics, metrics(loss=value), ALLOWED) is RefusalCode.METRIC_NOT_ALLOWED
    assert code_of(checks.check_metrics, metrics(secret=1), ALLOWED) is RefusalCode.METRIC_NOT_ALLOWED
    assert code_of(checks.check_metrics, metrics(num_examples=-1), ALLOWED) is RefusalCode.METRIC_NOT_ALLOWED
    for value in (math.nan, math.inf):
        assert code_of(checks.check_metrics, metrics(loss=value), ALLOWED) is RefusalCode.NOT_FINITE


@pytest.mark.parametrize(
    ("value", "digits", "kept"),
    [
        (718, 0, 710), (9, 0, 9), (99, 0, 99), (100, 0, 100), (1437, 0, 1400), (718.9, 0, 710),
        (-123, 0, -120),
        (0.98765, 2, 0.99), (1.23456, 2, 1.23), (12.3456, 2, 12.3), (1234.5, 2, 1230.0), (-0.001, 2, 0.0),
        (1, 2, 1.0), (0, 0, 0), (0.6666666, 4, 0.6667),
    ],
)  # fmt: skip
def test_rounded(value: float, digits: int, kept: float) -> None:
    found = checks.rounded(value, digits)
    assert (found, type(found)) == (kept, type(kept))
    assert math.copysign(1, found) == math.copysign(1, kept)


@settings(max_examples=200, deadline=None)
@given(st.floats(-checks.METRIC_LIMIT, checks.METRIC_LIMIT) | st.integers(-(10**9), 10**9), st.integers(0, 9))
def test_rounded_is_idempotent_and_short(value: float, digits: int) -> None:
    kept = checks.rounded(value, digits)
    assert checks.rounded(kept, digits) == kept
    # What is written, not the binary number beneath it: the shortest text that gives the same number.
    significant = Decimal(repr(kept)).normalize().as_tuple().digits
    assert len(significant) <= max(2, digits + 1)
    assert abs(kept - value) <= max(abs(value) / 10, 10.0**-digits)


def test_rounded_metrics_have_one_form() -> None:
    """Neither the order nor the record's name is the app's to choose."""
    first = checks.rounded_metrics(metrics("metrics", loss=0.123, accuracy=0.5), ALLOWED)
    second = checks.rounded_metrics(metrics("secret", accuracy=0.5, loss=0.124), ALLOWED)
    assert first == second == (Record("metrics", "metrics", ("accuracy", "loss"), (0.5, 0.12)),)
    assert checks.rounded_metrics(model(W), ALLOWED) == ()
