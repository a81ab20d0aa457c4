# SPDX-License-Identifier: Apache-2.0
"""Flower's RecordDict <-> our records. The only file that knows Flower's record types.

The gateway uses it to hand a task inward and a release outward, the trainer to call the ClientApp.
Config values of type bytes become a tagged Base64 text; metrics are numbers or lists of numbers.
May import: records, flwr.app.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from homebound.records import BYTES_TAG, Record, Records, RecordsError, bytes_of, bytes_text


def to_records(content: RecordDict) -> Records:
    """Our records of a RecordDict; arrays as numpy. Raises RecordsError for what cannot cross."""
    return tuple(_to_record(name, record) for name, record in content.items())


def from_records(records: Records) -> RecordDict:
    """The RecordDict that Flower code expects."""
    content = RecordDict()
    for record in records:
        content[record.name] = _from_record(record)
    return content


def _to_record(name: str, record: Any) -> Record:
    keys = tuple(record.keys())
    if isinstance(record, ArrayRecord):
        try:
            return Record(name, "arrays", keys, tuple(array.numpy() for array in record.values()))
        except (ValueError, TypeError) as error:
            raise RecordsError("an array is not a plain numpy array") from error
    if isinstance(record, MetricRecord):
        return Record(name, "metrics", keys, tuple(record.values()))
    if isinstance(record, ConfigRecord):
        return Record(name, "config", keys, tuple(_encode(value) for value in record.values()))
    raise RecordsError(f"a record of type {type(record).__name__} cannot cross")


def _from_record(record: Record) -> ArrayRecord | MetricRecord | ConfigRecord:
    pairs = zip(record.keys, record.values, strict=True)
    if record.kind == "arrays":
        return ArrayRecord({key: Array(value) for key, value in pairs})
    if record.kind == "metrics":
        return MetricRecord(dict(pairs))
    return ConfigRecord({key: _decode(value) for key, value in pairs})


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, bytes):
        return bytes_text(value)
    if isinstance(value, str) and value.startswith(BYTES_TAG):
        raise RecordsError("a config text starts with a NUL")
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, str) and value.startswith(BYTES_TAG):
        return bytes_of(value)
    return value
