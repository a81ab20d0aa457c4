# SPDX-License-Identifier: Apache-2.0
"""Clipping keeps its bound, and the grid has one form for a value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from homebound.guard import privacy
from homebound.guard.checks import CHUNK
from homebound.guard.noise import gaussian
from homebound.records import Array
from homebound.settings import GuardSettings
from unit.guard.rig import zeros
from unit.guard.test_noise import stream

QUICK = settings(max_examples=60, deadline=None)
FLOATS = ("float16", "float32", "float64")
# 23 numbers and one more chunk's worth: parts and wholes are both looked at.
SHAPES = st.sampled_from([(), (0,), (1,), (23,), (5, 7)])


def finite(dtype: str, limit: float) -> st.SearchStrategy[Array]:
    width = np.dtype(dtype).itemsize * 8
    floats = st.floats(-limit, limit, allow_nan=False, width=width)  # type: ignore[arg-type]
    return hnp.arrays(dtype, SHAPES, elements=floats)


def exact_norm(arrays: list[Array]) -> float:
    """The norm without any rounding but the last; a reference by other means."""
    return math.sqrt(math.fsum(float(x) ** 2 for array in arrays for x in array.reshape(-1)))


@QUICK
@given(st.lists(finite("float64", 2.0**300), max_size=4), st.floats(1e-6, 1e6))
def test_clip_keeps_the_bound(deltas: list[Array], bound: float) -> None:
    norm = privacy.measure((np.zeros_like(delta), delta) for delta in deltas)
    clipped = [privacy.clip(delta, norm, bound) for delta in deltas]
    assert exact_norm(clipped) <= bound
    if norm <= bound * privacy.HEADROOM:
        assert all(np.array_equal(a, b) for a, b in zip(clipped, deltas, strict=True))
    elif norm > 0:
        assert exact_norm(clipped) == pytest.approx(bound, rel=1e-9)


@QUICK
@given(finite("float32", 2.0**99), finite("float32", 2.0**99))
def test_the_norm_is_that_of_all_arrays_together(a: Array, b: Array) -> None:
    pairs = [(np.zeros_like(a), a), (np.zeros_like(b), b)]
    assert privacy.measure(pairs) == pytest.approx(exact_norm([a, b]), rel=1e-12)
    assert privacy.measure(pairs) == privacy.measure(pairs)


def test_the_norm_leaves_integers_out_and_tells_overflow() -> None:
    assert privacy.measure([(np.asarray([1]), np.asarray([1000]))]) == 0.0
    assert privacy.measure([]) == 0.0
    assert privacy.measure([(np.asarray([0.0]), np.asarray([1e200]))]) == math.inf
    assert privacy.measure([(np.asarray([-1.7e308]), np.asarray([1.7e308]))]) == math.inf


@pytest.mark.parametrize(
    ("reference", "bits", "step"), [(1.0, 2, 0.25), (0.1, 8, 2.0**-12), (3.9, 1, 1.0), (4.0, 1, 2.0)]
)
def test_quantum(reference: float, bits: int, step: float) -> None:
    assert privacy.quantum(reference, bits) == step


def test_quantum_stays_a_normal_number() -> None:
    for reference in (5e-324, 1e-300, 1e300):
        step = privacy.quantum(reference, 32)
        assert step > 0
        assert math.isfinite(1 / step)


def test_without_noise_the_grid_follows_the_clip_norm() -> None:
    assert (
        privacy.mechanism(GuardSettings(clip_norm=2.0, noise_multiplier=0.0, quantum_bits=3)).quantum == 0.25
    )
    how = privacy.mechanism(GuardSettings(clip_norm=2.0, noise_multiplier=0.5, quantum_bits=3))
    assert (how.deviation, how.quantum) == (1.0, 0.125)


@QUICK
@given(hnp.arrays("float64", 23, elements=st.floats(-1e6, 1e6)), st.integers(-20, 20))
def test_canonical(values: Array, exponent: int) -> None:
    step = 2.0**exponent
    kept = privacy.canonical(values, step)
    assert np.array_equal(kept, privacy.canonical(kept, step))
    assert np.all(np.abs(kept - values) <= step / 2)
    assert np.array_equal(kept / step, np.rint(kept / step))
    assert not np.signbit(kept[kept == 0]).any()


@QUICK
@given(hnp.arrays("float64", 23, elements=st.floats(-1e3, 1e3)), st.floats(-0.49, 0.49))
def test_canonical_bytes_hold_no_low_bits(values: Array, nudge: float) -> None:
    """Whatever lies within half a step of a grid point becomes the same bytes."""
    kept = privacy.canonical(values, 0.25)
    assert privacy.canonical(kept + nudge * 0.25, 0.25).tobytes() == kept.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_privatise_keeps_shape_and_dtype(dtype: str) -> None:
    how = privacy.Mechanism(1.0, 0.1, 2.0**-10)
    for shape in ((), (0, 3), (23,), (2, CHUNK)):
        wanted = np.zeros(shape, dtype)
        result = privacy.privatise(wanted, wanted + 1, 5.0, how, gaussian)
        assert (result.shape, result.dtype) == (wanted.shape, wanted.dtype)
        assert np.isfinite(result).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_change_gives_noise_alone(dtype: str) -> None:
    wanted = np.zeros(2000, dtype)
    how = privacy.Mechanism(1.0, 0.5, 2.0**-9)
    result = privacy.privatise(wanted, wanted, 0.0, how, lambda n: gaussian(n, stream("zero")))
    assert 0.45 < result.astype(np.float64).std() < 0.55
    still = privacy.privatise(wanted, wanted, 0.0, privacy.Mechanism(1.0, 0.0, 2.0**-9), zeros)
    assert still.tobytes() == wanted.tobytes()


@QUICK
@given(st.sampled_from(FLOATS), st.data())
def test_what_leaves_is_on_the_grid(dtype: str, data: st.DataObject) -> None:
    """From a task of zeros every value is a multiple of the step, so low bits carry nothing."""
    update = data.draw(finite(dtype, 1000.0))
    wanted = np.zeros_like(update)
    how = privacy.Mechanism(1.0, 0.1, 2.0**-8)
    norm = privacy.measure([(wanted, update)])
    result = privacy.privatise(wanted, update, norm, how, lambda n: gaussian(n, stream("grid")))
    steps = result.astype(np.float64) / how.quantum
    assert np.array_equal(steps, np.rint(steps))
    assert not np.signbit(result[result == 0]).any()


def test_sums_beyond_the_dtype_are_put_at_its_end() -> None:
    wanted = np.asarray([65504.0, -65504.0], np.float16)
    how = privacy.Mechanism(1000.0, 0.0, 1.0)
    result = privacy.privatise(wanted, wanted, 0.0, how, zeros)
    assert np.array_equal(result, wanted)
    far = privacy.privatise(
        wanted, wanted, 0.0, privacy.Mechanism(1.0, 1e6, 1.0), lambda n: np.asarray([1.0, -1.0])
    )
    assert np.array_equal(far, wanted)


def test_integers_stay_exact() -> None:
    how = privacy.Mechanism(1.0, 100.0, 1.0)
    counter = privacy.privatise(np.asarray(3), np.asarray(2**53 + 1), 1.0, how, gaussian)
    assert (counter.item(), counter.dtype) == (2**53 + 1, np.int64)
    averaged = privacy.privatise(np.asarray(2.5), np.asarray(7), 1.0, how, gaussian)
    assert (averaged.item(), averaged.dtype) == (7.0, np.float64)


def test_a_bool_hides_nothing_in_its_other_bits() -> None:
    hiding = np.frombuffer(b"\x07\x00\x55", np.bool_)
    plain = np.asarray([True, False, True])
    assert np.array_equal(hiding, plain)
    how = privacy.Mechanism(1.0, 0.0, 1.0)
    assert privacy.privatise(plain, hiding, 0.0, how, zeros).tobytes() == b"\x01\x00\x01"
