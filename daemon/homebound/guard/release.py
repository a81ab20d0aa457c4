# SPDX-License-Identifier: Apache-2.0
"""The decision: a task and an update in, a release or a refusal out. Pure but for the noise it is given.

The order is fixed: form, schema, numbers, metrics, then the mechanism. What leaves is built anew from the
task's names and the judged values; nothing of the update's own frame is passed on.
May import: bits, checks, privacy, channel, records, settings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from homebound import channel
from homebound.guard import bits, checks, privacy
from homebound.guard.checks import Refusal
from homebound.records import Record, Records, RecordsError, RefusalCode, pack, unpack
from homebound.settings import GuardSettings

MESSAGE_TYPES = frozenset({"train", "evaluate", "query"})
# An identifier of the federation; 20 decimal digits is what Flower has.
MAX_NAME = 128
MAX_ROUND = 2**31


@dataclass(frozen=True)
class Task:
    """What the federation asks for. ``records`` hold the model; their arrays are the update's schema."""

    task: str
    run: str
    round: int
    message_type: str
    records: Records


@dataclass(frozen=True)
class Release:
    """What may leave. ``norm`` is that of the change before it was clipped; it stays on this device.

    ``bits``: what the app can have said by it at the most, by way; see bits.py.
    """

    records: Records
    norm: float
    clipped: bool
    bits: Mapping[str, float] = field(default_factory=dict)

    @property
    def arrays(self) -> int:
        """In how many arrays it leaves."""
        return sum(len(record.values) for record in checks.arrays(self.records))


@dataclass(frozen=True)
class Payload:
    """A release as bytes. ``sha256`` and ``size`` are of the canonical header followed by the body."""

    header: list[dict[str, Any]]
    body: bytes
    sha256: str
    size: int


def read_task(header: dict[str, Any], body: bytes | bytearray | memoryview) -> Task:
    """The task in a frame of the gateway. Refusal when it can lead nowhere good."""
    task, run, number = header.get("task"), header.get("run"), header.get("round")
    kind = header.get("message_type")
    if not is_name(task) or not is_name(run) or not isinstance(kind, str) or kind not in MESSAGE_TYPES:
        raise Refusal(RefusalCode.MALFORMED)
    if type(number) is not int or not 0 <= number < MAX_ROUND:
        raise Refusal(RefusalCode.MALFORMED)
    records = _read_records(header, body)
    if kind == "train":
        checks.check_known(records)
        checks.check_finite(records)
    return Task(task, run, number, kind, records)


def is_name(value: Any) -> TypeGuard[str]:
    """Whether a value from a frame can be an identifier of the federation."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def read_update(header: dict[str, Any], body: bytes | bytearray | memoryview, limit: int) -> Records:
    """The records in a frame of the trainer. Refusal too_large or malformed."""
    checks.check_size(len(body), limit)
    return _read_records(header, body)


def read_counted(header: dict[str, Any]) -> int | None:
    """How many examples the trainer counted. Refusal malformed when that is no count."""
    counted = header.get("counted")
    if counted is not None and (type(counted) is not int or counted < 0):
        raise Refusal(RefusalCode.MALFORMED)
    return counted


def _read_records(header: dict[str, Any], body: bytes | bytearray | memoryview) -> Records:
    try:
        return unpack(header.get("records"), body)
    except RecordsError as error:
        raise Refusal(RefusalCode.MALFORMED) from error


def decide(
    task: Task,
    update: Records,
    settings: GuardSettings,
    noise: privacy.Noise,
    counted: int | None = None,
) -> Release | Refusal:
    """Judge an update. Only a train task may be answered with arrays, the others with metrics alone.

    ``counted``: how many examples went through the trainer's loader, None when there was none.
    """
    expected = checks.arrays(task.records) if task.message_type == "train" else ()
    try:
        checks.check_names(expected, update)
        checks.check_shapes(expected, update)
        checks.check_dtypes(expected, update)
        checks.check_counters(expected, update)
        checks.check_finite(update)
        checks.check_records(update)
        checks.check_metrics(update, settings.metrics)
        checks.check_metric_bits(sum(bits.metrics(update, settings.metrics).values()), settings.metric_bits)
        if task.message_type == "train":
            checks.check_examples(update, counted, settings.min_examples)
        return _release(expected, update, settings, noise)
    except Refusal as refusal:
        return refusal


def _release(expected: Records, update: Records, settings: GuardSettings, noise: privacy.Noise) -> Release:
    norm = privacy.measure(checks.pairs(expected, update))
    if not math.isfinite(norm):
        raise Refusal(RefusalCode.NOT_FINITE)
    how = privacy.mechanism(settings)
    released = tuple(
        Record(
            wanted.name,
            "arrays",
            wanted.keys,
            tuple(
                privacy.privatise(old, new, norm, how, noise)
                for old, new in zip(wanted.values, given.values, strict=True)
            ),
        )
        for wanted, given in zip(expected, checks.arrays(update), strict=True)
    )
    metrics = checks.rounded_metrics(update, settings.metrics)
    clipped = norm > settings.clip_norm * privacy.HEADROOM
    return Release(released + metrics, norm, clipped, bits.bound(update, settings))


def payload(release: Release) -> Payload:
    """The bytes that leave; they depend on nothing but names and values."""
    header, body = pack(release.records)
    digest = hashlib.sha256(head := channel.encode_header(channel.Frame("release", {"payload": header})))
    digest.update(body)
    return Payload(header, body, digest.hexdigest(), len(head) + len(body))
