# SPDX-License-Identifier: Apache-2.0
"""How many bits an app can choose in one answer at the most, way by way. Pure.

Each figure is an upper bound for any app and any code that it agreed on with whoever listens. What has noise
is bounded by the capacity of a Gaussian channel, what has none by the number of its possible values.
May import: checks, records, settings, numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from homebound.guard import checks
from homebound.records import Records
from homebound.settings import GuardSettings

# Two answers are told apart by their time of arrival when they are this many seconds apart: a guess on the
# safe side for a network, where jitter is rarely below it.
TIMING_RESOLUTION = 1e-3
# An answer leaves or it does not; the federation hears no reason.
REFUSAL_BITS = 1.0


def weights(numbers: int, settings: GuardSettings) -> float:
    """Of ``numbers`` noised numbers: n/2 log2(1 + 1/(n z^2)) by Shannon's formula (1948, part IV).

    The clip norm bounds the power of all together. It grows with n towards 1 / (2 z^2 ln 2). Without noise
    it is infinite here: then only the size of the update bounds it.
    """
    if numbers == 0:
        return 0.0
    # As a product, so that a tiny multiplier gives infinity and no error.
    power = numbers * settings.noise_multiplier * settings.noise_multiplier
    return numbers / 2 * math.log2(1 + 1 / power) if power > 0 else math.inf


def metric_values(name: str, digits: int) -> int:
    """As how many values a metric can leave; see checks.rounded()."""
    if name == checks.EXAMPLES:
        # Two to the power of BUCKET_BITS - 1 in each octave, and all below the first whole one.
        per_octave = 1 << (checks.BUCKET_BITS - 1)
        whole = checks.METRIC_LIMIT.bit_length() - checks.BUCKET_BITS
        last = checks.METRIC_LIMIT >> whole
        return per_octave * (whole + 1) + (last - per_octave + 1)
    decades = len(str(checks.METRIC_LIMIT)) - 1
    if digits == 0:
        # 0 to 99, then 90 values in each decade up to the limit itself; all but 0 with both signs.
        return 2 * (99 + 90 * (decades - 2) + 1) + 1
    # Below 10 in steps of 10^-digits, then digits + 1 figures in each decade up to the limit itself.
    figures = 10 ** int(digits)
    values: int = 2 * (10 * figures - 1 + 9 * figures * (decades - 1) + 1) + 1
    return values


def metric(name: str, digits: int) -> float:
    """Of one metric that is on the list: a value, or none at all."""
    return math.log2(metric_values(name, digits) + 1)


def metrics(update: Records, allowed: Mapping[str, int]) -> dict[str, float]:
    """Of each metric that an update has. Only after checks.check_metrics()."""
    return {
        key: metric(key, allowed[key]) for record in update if record.kind == "metrics" for key in record.keys
    }


def counters(update: Records) -> float:
    """Of the whole numbers that checks.check_counters() lets through: one step for those that moved.

    Each may move, stay, or come as a float where the task has float64, which then shows by its noise.
    """
    count = sum(
        1
        for record in checks.arrays(update)
        for array in record.values
        if array.dtype.kind in "iu" and array.size == 1
    )
    return math.log2(checks.STEP_LIMIT) + count * math.log2(3) if count else 0.0


def noised(update: Records) -> int:
    """How many numbers of an update get noise."""
    return sum(
        array.size for record in checks.arrays(update) for array in record.values if array.dtype.kind == "f"
    )


def timing(timeout: float) -> float:
    """Of the moment at which an answer comes, within ``timeout`` seconds."""
    return math.log2(1 + timeout / TIMING_RESOLUTION)


def bound(update: Records, settings: GuardSettings) -> dict[str, float]:
    """What an answer that left can have said, by way. Its time and that it left at all come on top."""
    return {
        "weights": weights(noised(update), settings),
        "metrics": sum(metrics(update, settings.metrics).values()),
        "counters": counters(update),
    }
