# SPDX-License-Identifier: Apache-2.0
"""Numbers of an update as integers of a ring, and the masks on them, as flwr 1.42's server takes them off.

The weights have been clipped, noised and rounded before; what is done here costs no privacy and adds none by
itself. Weighted and quantised as the protocol says: the first number is the weight. Flower seeds numpy's
legacy generator with 32 bits folded from each key, whatever its length; docs/secagg.md says what that means.
Sums wrap at 2^32, which every modulus divides. Pure. May import: guard.checks, guard.secagg.forms, numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from homebound.guard.checks import chunks
from homebound.guard.secagg.forms import Setup
from homebound.records import Array

Ring = NDArray[np.uint32]
# A seed, and whether its mask is added or taken away.
Mask = tuple[bytes, bool]


def weigh(examples: int, setup: Setup) -> int:
    """The weight of an update of so many examples, in steps of the target range; never more than all of it,
    because a larger one would overflow the sum of everybody."""
    ratio = min(1.0, examples / setup.max_weight)
    return max(1, round(ratio * setup.target_range))


def as_ring(weight: int) -> Ring:
    """The weight as the first array of an answer."""
    return np.array([weight], np.uint32)


def quantise(values: Array, weight: int, setup: Setup) -> Ring:
    """Weighted values as integers from 0 to the target range."""
    reach, steps = setup.clipping_range, setup.target_range / (2 * setup.clipping_range)
    result = np.empty(values.shape, np.uint32)
    old, new = values.reshape(-1), result.reshape(-1)
    for part in chunks(old.size):
        scaled = np.multiply(old[part], weight / setup.target_range, dtype=np.float64)
        new[part] = np.rint((np.clip(scaled, -reach, reach) + reach) * steps)
    return result


def add_masks(numbers: Sequence[Ring], masks: Iterable[Mask], modulus: int) -> None:
    """Put masks on the numbers, in place."""
    for seed, is_added in masks:
        generator = np.random.RandomState(_fold(seed))
        for array in numbers:
            _add_mask(array.reshape(-1), generator, is_added, modulus)
    for array in numbers:
        np.bitwise_and(array, np.uint32(modulus - 1), out=array)


def _add_mask(flat: Ring, generator: np.random.RandomState, is_added: bool, modulus: int) -> None:
    for part in chunks(flat.size):
        count = part.stop - part.start
        mask = generator.randint(0, modulus - 1, count, dtype=np.int64).astype(np.uint32)
        if is_added:
            flat[part] += mask
        else:
            flat[part] -= mask


def _fold(seed: bytes) -> int:
    """All words of a seed, one over the other."""
    return int(np.bitwise_xor.reduce(np.frombuffer(seed, "<u4")))
