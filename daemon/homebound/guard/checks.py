# SPDX-License-Identifier: Apache-2.0
"""What an update must be before it is looked at further: one pure function for each check.

Each returns nothing and raises Refusal with a code of the closed set. The task is what the federation
sent, the update is what the app made of it; both are untrusted, and the app may hide data anywhere.
May import: records, numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from homebound.records import DTYPES, Array, Record, Records, RefusalCode

# The record of metrics leaves under this name, whatever the app called it: a name is a place to hide data.
METRICS_RECORD = "metrics"
# How many examples an update stands for; federated averaging weighs by it, so it cannot be negative.
EXAMPLES = "num-examples"
# No honest count or loss is larger; the bound keeps a number from carrying a record.
METRIC_LIMIT = 1_000_000_000
# An example count keeps this many of its leading binary digits: buckets no wider than a fifth of the count.
BUCKET_BITS = 3
# Batches that a BatchNorm counter may count in one round. 20 bits is what an app can say by it.
STEP_LIMIT = 1 << 20
# Elements looked at together: 512 KiB of float64, so that a check needs little memory beside the update.
CHUNK = 1 << 16


class Refusal(Exception):
    """This update does not leave. ``code`` is all that is said about why."""

    def __init__(self, code: RefusalCode) -> None:
        super().__init__(code.value)
        self.code = code


def arrays(records: Records) -> Records:
    """The records of arrays among the records."""
    return tuple(record for record in records if record.kind == "arrays")


def pairs(expected: Records, update: Records) -> Iterator[tuple[Array, Array]]:
    """Each array of the task with its array of the update. Only after check_names()."""
    for wanted, given in zip(arrays(expected), arrays(update), strict=True):
        yield from zip(wanted.values, given.values, strict=True)


def chunks(size: int) -> Iterator[slice]:
    """Slices that cover a flat array of ``size`` elements in order."""
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))


def check_size(body_bytes: int, limit: int) -> None:
    """The body of the frame is no larger than allowed."""
    if body_bytes > limit:
        raise Refusal(RefusalCode.TOO_LARGE)


def check_names(expected: Records, update: Records) -> None:
    """Records of arrays have the names and keys of the task's, in the same order. ``expected`` may be ()."""
    wanted = [(record.name, record.keys) for record in arrays(expected)]
    given = [(record.name, record.keys) for record in arrays(update)]
    if wanted != given:
        raise Refusal(RefusalCode.SCHEMA)


def check_shapes(expected: Records, update: Records) -> None:
    """Each array has the shape of the task's."""
    for wanted, given in pairs(expected, update):
        if wanted.shape != given.shape:
            raise Refusal(RefusalCode.SCHEMA)


def check_dtypes(expected: Records, update: Records) -> None:
    """Each array has the dtype of the task's, and one that may cross.

    One exception: any array of the app may face float64 in the task. Averaging in the federation divides
    integers and so sends them back as float64, and secure aggregation does so with all arrays (flwr 1.42,
    aggregate_arrayrecords and unmask_stage). What leaves has the task's dtype.
    """
    for wanted, given in pairs(expected, update):
        if given.dtype not in DTYPES or wanted.dtype not in (given.dtype, np.float64):
            raise Refusal(RefusalCode.SCHEMA)


def check_known(records: Records) -> None:
    """Each array of a task has a dtype that an update may have."""
    for record in arrays(records):
        if any(array.dtype not in DTYPES for array in record.values):
            raise Refusal(RefusalCode.SCHEMA)


def check_finite(records: Records) -> None:
    """No float array holds NaN or an infinity: one such value ruins an average for everybody."""
    for record in arrays(records):
        for array in record.values:
            if array.dtype.kind == "f" and not _is_finite(array):
                raise Refusal(RefusalCode.NOT_FINITE)


def _is_finite(array: Array) -> bool:
    flat = array.reshape(-1)
    return all(np.isfinite(flat[part]).all() for part in chunks(flat.size))


def check_counters(expected: Records, update: Records) -> None:
    """Integer and bool arrays carry no noise, so they may hardly change.

    A single number (BatchNorm's num_batches_tracked) may grow, all of them by the same step of at most
    STEP_LIMIT, or stay. An array of several (position numbers, masks) must be the task's.
    """
    steps: set[int] = set()
    for wanted, given in pairs(expected, update):
        if given.dtype.kind not in "iub":
            continue
        base = as_counter(wanted, given.dtype)
        if given.size != 1 or given.dtype.kind == "b":
            if not np.array_equal(base, given):
                raise Refusal(RefusalCode.SCHEMA)
        else:
            steps.add(int(given.item()) - int(base.item()))
    steps.discard(0)
    if len(steps) > 1 or any(not 0 < step <= STEP_LIMIT for step in steps):
        raise Refusal(RefusalCode.SCHEMA)


def as_counter(array: Array, dtype: np.dtype[Any]) -> Array:
    """The task's array as the app loads it into an integer buffer: cut towards zero, as torch does."""
    with np.errstate(invalid="ignore"):
        return array.astype(dtype)


def check_records(update: Records) -> None:
    """Besides arrays there is at most one record of metrics, and nothing else."""
    others = [record for record in update if record.kind != "arrays"]
    if len(others) > 1 or any(record.kind != "metrics" for record in others):
        raise Refusal(RefusalCode.METRIC_NOT_ALLOWED)


def check_metrics(update: Records, allowed: Mapping[str, int]) -> None:
    """Each metric is on the list ``allowed`` (name -> digits), one finite number, and of a sane size."""
    for record in update:
        if record.kind == "metrics":
            for key, value in zip(record.keys, record.values, strict=True):
                _check_metric(key, value, allowed)


def check_examples(update: Records, counted: int | None, least: int) -> None:
    """An update stands for at least so many examples, by the app's word and that of a loader if used.

    Both come from the app's own process. Neither there is as good as too few, unless none are asked for.
    """
    told = [
        value
        for record in update
        if record.kind == "metrics"
        for key, value in zip(record.keys, record.values, strict=True)
        if key == EXAMPLES
    ]
    known = [*told, *([] if counted is None else [counted])]
    if least and min(known, default=0) < least:
        raise Refusal(RefusalCode.TOO_FEW_EXAMPLES)


def check_metric_bits(bits: float, limit: float) -> None:
    """What the metrics together can say is within the budget of bits for one answer."""
    if bits > limit:
        raise Refusal(RefusalCode.METRIC_NOT_ALLOWED)


def _check_metric(key: str, value: Any, allowed: Mapping[str, int]) -> None:
    if key not in allowed or isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(RefusalCode.METRIC_NOT_ALLOWED)
    if isinstance(value, float) and not math.isfinite(value):
        raise Refusal(RefusalCode.NOT_FINITE)
    if abs(value) > METRIC_LIMIT or (key == EXAMPLES and value < 0):
        raise Refusal(RefusalCode.METRIC_NOT_ALLOWED)


def rounded_metrics(update: Records, allowed: Mapping[str, int]) -> Records:
    """The record of metrics as it may leave, or () when the update has none. Only after check_metrics().

    Keys are sorted. The number of examples is put into a bucket. A metric of ``digits`` digits keeps as many
    places after the point, and in all no more than digits + 1 significant figures; one of 0 digits is a whole
    number cut to 2 figures.
    """
    for record in update:
        if record.kind == "metrics":
            values = dict(zip(record.keys, record.values, strict=True))
            keys = tuple(sorted(values))
            kept = tuple(
                bucket(values[key]) if key == EXAMPLES else rounded(values[key], allowed[key]) for key in keys
            )
            return (Record(METRICS_RECORD, "metrics", keys, kept),)
    return ()


def bucket(count: int | float) -> int:
    """The lower end of the bucket of a count that is not negative: its BUCKET_BITS leading binary digits."""
    whole = int(count)
    below = max(0, whole.bit_length() - BUCKET_BITS)
    return whole >> below << below


def rounded(value: int | float, digits: int) -> int | float:
    """``value`` with ``digits`` places after the point; see rounded_metrics()."""
    if digits == 0:
        whole = int(value)
        unit: int = 10 ** max(0, len(str(abs(whole))) - 2)
        return abs(whole) // unit * unit * (1 if whole >= 0 else -1)
    before = len(str(int(abs(value))))
    # Adding 0.0 turns -0.0 into 0.0: a sign that says nothing is a bit to hide in.
    return round(float(value), digits + 1 - before if before > 1 else digits) + 0.0
