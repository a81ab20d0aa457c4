# SPDX-License-Identifier: Apache-2.0
"""The noise is Gaussian, from a key stream that is ChaCha20 with keys of the system."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from homebound.guard.noise import gaussian, key_stream


def stream(seed: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same each time."""
    return lambda count: hashlib.shake_128(seed.encode()).digest(count)


def test_gaussian_is_gaussian() -> None:
    """Quantiles and moments of 200 000 numbers from a fixed stream, within five standard errors."""
    count = 200_000
    sample = gaussian(count, stream("noise"))
    assert abs(sample.mean()) < 5 / math.sqrt(count)
    assert abs(sample.var() - 1) < 5 * math.sqrt(2 / count)
    for level in (0.001, 0.023, 0.16, 0.5, 0.84, 0.977, 0.999):
        below = np.mean(sample < NormalDist().inv_cdf(level))
        assert abs(below - level) < 5 * math.sqrt(level * (1 - level) / count)
    half = count // 2
    assert abs(np.mean(sample[:half] * sample[half:])) < 5 / math.sqrt(half)


def test_gaussian_at_the_edges() -> None:
    assert gaussian(0, stream("x")).shape == (0,)
    assert gaussian(3, stream("x")).shape == (3,)
    for byte in (b"\x00", b"\xff"):
        extreme = gaussian(4, lambda count, byte=byte: byte * count)  # type: ignore[misc]
        assert np.isfinite(extreme).all()
        assert np.abs(extreme).max() < 8.6


def test_gaussian_is_the_method_of_box_and_muller() -> None:
    """With sine and cosine, number by number."""
    count = 20_000
    words = np.frombuffer(stream("pairs")(8 * count), "<u8") >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((words[: count // 2] + 1.0) / 2**53))
    angle = words[count // 2 :] * (2 * math.pi / 2**53)
    expected = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    assert np.allclose(gaussian(count, stream("pairs")), expected, rtol=1e-9, atol=1e-14)


def test_half_a_turn_is_no_infinity() -> None:
    """There the tangent of half the angle has its pole."""
    half = (1 << 63).to_bytes(8, "little")
    pair = gaussian(2, lambda count: half[: count // 2] + half)
    assert pair == pytest.approx([-math.sqrt(2 * math.log(2)), 0.0], abs=1e-12)


def test_the_key_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1; and each stream takes a key of its own from the system."""
    asked: list[int] = []

    def zero(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    first = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert key_stream(32, zero).hex() == first
    assert len(key_stream(1 << 20, zero)) == 1 << 20
    assert asked == [32, 32]
    assert key_stream(32) != key_stream(32)


def test_gaussian_differs_each_time() -> None:
    assert not np.array_equal(gaussian(23), gaussian(23))
