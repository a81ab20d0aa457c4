# SPDX-License-Identifier: Apache-2.0
"""The content of a task or an update: named records of arrays, metrics and config values.

This is Flower's RecordDict without Flower: the guard reads it with numpy and safetensors alone.
Arrays travel as safetensors, numbers and words in the frame's header. Nothing is unpickled.
May import: errors.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from homebound.errors import HomeboundError

RecordKind: TypeAlias = Literal["arrays", "metrics", "config"]
Array: TypeAlias = NDArray[Any]
Value: TypeAlias = Any  # arrays: Array; metrics: number or list of numbers; config: also text, bool

# numpy dtypes that may cross a link. Everything else (objects, strings, structs, complex) is refused.
DTYPES = frozenset(
    np.dtype(name)
    for name in (
        "float16", "float32", "float64",
        "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64",
        "bool",
    )
)  # fmt: skip
KINDS: tuple[RecordKind, ...] = ("arrays", "metrics", "config")


class RefusalCode(enum.StrEnum):
    """Why no update left for a task. The closed set: nothing else about a failure crosses a link."""

    APP_FAILED = "app_failed"
    APP_NOT_LOADED = "app_not_loaded"
    TIMEOUT = "timeout"
    TRAINER_DIED = "trainer_died"
    MALFORMED = "malformed"
    SCHEMA = "schema"
    NOT_FINITE = "not_finite"
    TOO_LARGE = "too_large"
    METRIC_NOT_ALLOWED = "metric_not_allowed"
    NOT_APPROVED = "not_approved"
    BUDGET = "budget"
    LEDGER = "ledger"


class RecordsError(HomeboundError):
    """Header and body do not make a set of records."""


@dataclass(frozen=True)
class Record:
    """One named record; ``keys`` and ``values`` have the same length and order."""

    name: str
    kind: RecordKind
    keys: tuple[str, ...]
    values: tuple[Value, ...]


Records: TypeAlias = tuple[Record, ...]


def pack(records: Records) -> tuple[list[dict[str, Any]], bytes]:
    """Header list and safetensors body. The bytes depend on nothing but names, order and values."""
    header: list[dict[str, Any]] = []
    tensors: dict[str, Array] = {}
    for i, record in enumerate(records):
        entry: dict[str, Any] = {"name": record.name, "kind": record.kind, "keys": list(record.keys)}
        if record.kind == "arrays":
            for j, array in enumerate(record.values):
                if array.dtype not in DTYPES:
                    raise RecordsError(f"an array of dtype {array.dtype} cannot be sent")
                tensors[f"{i}.{j}"] = np.asarray(array, order="C")
        else:
            entry["values"] = list(record.values)
        header.append(entry)
    return header, save(tensors) if tensors else b""


def unpack(header: Any, body: bytes | bytearray | memoryview) -> Records:
    """The records of a frame. Raises RecordsError for anything that pack() could not have made."""
    if not isinstance(header, list):
        raise RecordsError("the records are not a list")
    try:
        tensors = load(bytes(body)) if len(body) else {}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RecordsError("the body is not safetensors") from error
    records = tuple(_unpack_record(i, entry, tensors) for i, entry in enumerate(header))
    if tensors:
        raise RecordsError("the body holds tensors that no record names")
    if len({record.name for record in records}) != len(records):
        raise RecordsError("two records have the same name")
    return records


def _unpack_record(i: int, entry: Any, tensors: dict[str, Array]) -> Record:
    if not isinstance(entry, dict):
        raise RecordsError("a record is not an object")
    name, kind, keys = entry.get("name"), entry.get("kind"), entry.get("keys")
    if not isinstance(name, str) or kind not in KINDS or not isinstance(keys, list):
        raise RecordsError("a record lacks name, kind or keys")
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise RecordsError("the keys of a record are not distinct names")
    if kind == "arrays":
        if set(entry) != {"name", "kind", "keys"}:
            raise RecordsError("a record of arrays has unknown fields")
        try:
            values = tuple(tensors.pop(f"{i}.{j}") for j in range(len(keys)))
        except KeyError as error:
            raise RecordsError("a named array is missing") from error
    else:
        values = _unpack_values(entry, kind, len(keys))
    return Record(name, kind, tuple(keys), values)


def _unpack_values(entry: dict[str, Any], kind: str, count: int) -> tuple[Value, ...]:
    values = entry.get("values")
    if set(entry) != {"name", "kind", "keys", "values"} or not isinstance(values, list):
        raise RecordsError("a record of values has unknown or missing fields")
    if len(values) != count:
        raise RecordsError("a record has not as many values as keys")
    allowed: tuple[type, ...] = (int, float) if kind == "metrics" else (int, float, str, bool)
    for value in values:
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, allowed) or (kind == "metrics" and isinstance(item, bool)):
                raise RecordsError("a record holds a value of a type that may not cross")
    return tuple(values)
