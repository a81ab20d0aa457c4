# SPDX-License-Identifier: Apache-2.0
"""The content of a task or an update: named records of arrays, metrics and config values.

This is Flower's RecordDict without Flower: the guard reads it with numpy and safetensors alone.
Arrays travel as safetensors, numbers and words in the frame's header. Nothing is unpickled.
May import: errors.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

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
# Their names in a safetensors header.
TENSOR_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
    "I8": np.dtype("<i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "U8": np.dtype("<u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
# A config value that starts so is bytes. A NUL starts no honest text, so a text that has it is refused.
BYTES_TAG = "\x00base64:"
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
    TOO_FEW_EXAMPLES = "too_few_examples"
    IMPRINT = "imprint"
    SECAGG_STAGE = "secagg_stage"
    SECAGG_TOO_FEW = "secagg_too_few"
    SECAGG_THRESHOLD = "secagg_threshold"
    SECAGG_KEYS = "secagg_keys"
    SECAGG_LISTS = "secagg_lists"
    SECAGG_REQUIRED = "secagg_required"
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


def bytes_text(content: bytes) -> str:
    """Bytes as a config value."""
    return BYTES_TAG + base64.b64encode(content).decode("ascii")


def bytes_of(value: Value) -> bytes:
    """The bytes that a config value is. Raises RecordsError when it is something else."""
    if not isinstance(value, str) or not value.startswith(BYTES_TAG):
        raise RecordsError("a config value is not bytes")
    try:
        return base64.b64decode(value.removeprefix(BYTES_TAG), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordsError("a config value is not Base64") from error


def pack(records: Records) -> tuple[list[dict[str, Any]], bytes]:
    """Header list and safetensors body. The bytes depend on nothing but names, order and values."""
    header: list[dict[str, Any]] = []
    tensors: dict[str, Array] = {}
    for i, record in enumerate(records):
        entry: dict[str, Any] = {"name": record.name, "kind": record.kind, "keys": list(record.keys)}
        if record.kind == "arrays":
            tensors.update((f"{i}.{j}", _plain(array)) for j, array in enumerate(record.values))
        else:
            entry["values"] = list(record.values)
        header.append(entry)
    return header, save(tensors) if tensors else b""


def _plain(array: Array) -> Array:
    if array.dtype not in DTYPES:
        raise RecordsError(f"an array of dtype {array.dtype} cannot be sent")
    return np.asarray(array, order="C")


def unpack(header: Any, body: bytes | bytearray | memoryview) -> Records:
    """The records of a frame. Raises RecordsError for anything that pack() could not have made."""
    if not isinstance(header, list):
        raise RecordsError("the records are not a list")
    tensors = _tensors(memoryview(body)) if len(body) else {}
    records = tuple(_unpack_record(i, entry, tensors) for i, entry in enumerate(header))
    if tensors:
        raise RecordsError("the body holds tensors that no record names")
    if len({record.name for record in records}) != len(records):
        raise RecordsError("two records have the same name")
    return records


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the data of a safetensors body."""

    begin: int
    end: int
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _tensors(body: memoryview) -> dict[str, Array]:
    """The arrays of a safetensors body as views on it: nothing is copied, so a large model is held once.

    Stricter than the library: no metadata, no gaps, no dtype but ours, each name once
    (https://github.com/huggingface/safetensors, "Format").
    """
    try:
        (length,) = struct.unpack_from("<Q", body)
        table = json.loads(bytes(body[8 : 8 + length]), object_pairs_hook=_distinct)
        places = [_place(name, entry) for name, entry in table.items()]
        return _views(sorted(places, key=lambda place: (place.begin, place.end)), body[8 + length :])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise RecordsError("the body is not safetensors") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _place(name: str, entry: dict[str, Any]) -> _Place:
    shape, offsets = entry["shape"], entry["data_offsets"]
    begin, end = offsets
    if set(entry) != {"dtype", "shape", "data_offsets"} or not isinstance(shape, list):
        raise ValueError("a tensor has unknown fields")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise ValueError("a length is none")
    return _Place(begin, end, name, TENSOR_DTYPES[entry["dtype"]], tuple(shape))


def _views(places: list[_Place], data: memoryview) -> dict[str, Array]:
    tensors, reached = {}, 0
    for place in places:
        size = math.prod(place.shape) * place.dtype.itemsize
        if place.begin != reached or place.end - place.begin != size or place.end > len(data):
            raise ValueError("a tensor is not where it says")
        tensors[place.name] = np.ndarray(place.shape, place.dtype, data, place.begin)
        reached = place.end
    if reached != len(data):
        raise ValueError("there is more than the tensors")
    return tensors


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
