# SPDX-License-Identifier: Apache-2.0
"""The Gaussian mechanism on a whole update: clip the change, add noise, round to a fixed grid.

All sums are made in float64, array after array and chunk after chunk, so that the same update gives the
same norm. Pure: the noise comes in as a callable (noise.py makes it). May import: checks, settings, numpy.

The grid. Noise in floating point has holes that depend on the value beneath it, and its low bits tell
them apart (Mironov 2012, "On significance of the least significant bits for differential privacy").
Rounding the sum to a power of two near the noise's deviation removes those bits: a cell of the grid joins
over 2^40 neighbouring doubles. It is applied after the noise, so it costs no privacy (post-processing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from homebound.guard.checks import chunks
from homebound.records import Array
from homebound.settings import GuardSettings

Float64: TypeAlias = NDArray[np.float64]
# How many numbers are wanted -> that many independent standard normal numbers.
Noise: TypeAlias = Callable[[int], Float64]
Pair: TypeAlias = tuple[Array, Array]

# What is clipped is clipped to a hair less, so that rounding in the sums cannot leave it above the bound.
# Pairwise summation of 2^16 squares errs by less than 2^-46.
HEADROOM = 1 - 2**-40


@dataclass(frozen=True)
class Mechanism:
    """Clip norm, standard deviation of the noise and step of the grid, all in units of the weights."""

    clip_norm: float
    deviation: float
    quantum: float


def mechanism(settings: GuardSettings) -> Mechanism:
    """The mechanism that the settings ask for. Without noise the grid follows the clip norm."""
    deviation = settings.noise_multiplier * settings.clip_norm
    return Mechanism(
        settings.clip_norm, deviation, quantum(deviation or settings.clip_norm, settings.quantum_bits)
    )


def quantum(reference: float, bits: int) -> float:
    """The power of two that is ``bits`` below the largest power of two not above ``reference``."""
    exponent = math.frexp(reference)[1] - 1 - bits
    # Within these bounds the step and its reciprocal are both normal numbers.
    return math.ldexp(1.0, min(1000, max(-1000, exponent)))


def canonical(values: Float64, step: float) -> Float64:
    """Each value at the nearest multiple of ``step`` (a power of two), ties to even, without -0.0."""
    return np.rint(values * (1.0 / step)) * step + 0.0


def change(wanted: Array, given: Array) -> Float64:
    """Update minus task in float64; infinite where that is too large."""
    with np.errstate(over="ignore"):
        return np.subtract(given, wanted, dtype=np.float64)


def is_private(given: Array) -> bool:
    """Whether an array goes through the mechanism. Integers do not; check_counters() binds them."""
    return given.dtype.kind == "f"


def measure(pairs: Iterable[Pair]) -> float:
    """L2 norm of the change over all float arrays together; infinite when it cannot be told."""
    parts: list[float] = []
    for wanted, given in pairs:
        if is_private(given):
            parts.extend(_squares(wanted.reshape(-1), given.reshape(-1)))
    try:
        return math.sqrt(math.fsum(parts))
    except (OverflowError, ValueError):
        return math.inf


def _squares(wanted: Array, given: Array) -> Iterable[float]:
    for part in chunks(given.size):
        delta = change(wanted[part], given[part])
        with np.errstate(over="ignore"):
            yield float(np.add.reduce(np.square(delta)))


def clip(delta: Float64, norm: float, bound: float) -> Float64:
    """A part of a change whose whole has the norm ``norm``, scaled so that the whole is within ``bound``."""
    return delta if norm <= bound * HEADROOM else delta * (bound / norm * HEADROOM)


def privatise(wanted: Array, given: Array, norm: float, mechanism: Mechanism, noise: Noise) -> Array:
    """The array that leaves: task + rounded(clipped change + noise), in the task's shape and dtype.

    An integer array comes back as it is, of bool arrays the task's: a bool in memory has 8 bits, of which 7
    say nothing and could hide something. A sum beyond the dtype's range is put at its end.
    """
    if not is_private(given):
        return wanted if given.dtype.kind == "b" else given.astype(wanted.dtype)
    result = np.empty(wanted.shape, wanted.dtype)
    old, new, out = wanted.reshape(-1), given.reshape(-1), result.reshape(-1)
    largest = float(np.finfo(wanted.dtype).max)
    for part in chunks(out.size):
        delta = clip(change(old[part], new[part]), norm, mechanism.clip_norm)
        if mechanism.deviation:
            delta = delta + mechanism.deviation * noise(delta.size)
        total = canonical(delta, mechanism.quantum) + old[part]
        out[part] = np.clip(total, -largest, largest)
        # A tiny negative sum becomes -0.0 in a narrower dtype.
        out[part] += 0
    return result
