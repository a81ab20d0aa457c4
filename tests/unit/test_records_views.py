# SPDX-License-Identifier: Apache-2.0
"""Reading a safetensors body in place: what is taken is what the library takes, byte for byte."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from homebound.records import RecordsError, unpack

BODY = save({"0.0": np.arange(6, dtype=np.float32).reshape(2, 3), "0.1": np.asarray(7, np.int64)})
HEADER = [{"name": "a", "kind": "arrays", "keys": ["w", "n"]}]


def body_of(table: Any, data: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"0.0": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


ONE = [{"name": "a", "kind": "arrays", "keys": ["w"]}]


def test_nothing_is_copied() -> None:
    body = bytearray(BODY)
    before = unpack(HEADER, body)[0].values[0].copy()
    body[-4:] = np.float32(99).tobytes()
    after = unpack(HEADER, body)[0].values[0]
    assert not np.array_equal(before, after)
    assert np.shares_memory(after, np.frombuffer(body, np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_taken_is_what_the_library_takes(data: st.DataObject) -> None:
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))
    body = body[:cut] + data.draw(st.binary(max_size=3))
    try:
        (record,) = unpack(HEADER, bytes(body))
    except RecordsError:
        return
    reference = load(bytes(body))
    for name, array in zip(("0.0", "0.1"), record.values, strict=True):
        assert (array.dtype, array.shape) == (reference[name].dtype, reference[name].shape)
        assert array.tobytes() == reference[name].tobytes()


def test_a_good_one_that_the_bad_ones_are_made_of() -> None:
    assert unpack(ONE, body_of(tensor(), b"\0\0\0\0"))[0].values[0].shape == (1,)
    assert unpack(ONE, body_of(tensor(shape=[0, 2**40], offsets=[0, 0])))[0].values[0].size == 0


@pytest.mark.parametrize(
    "body",
    [
        body_of(tensor(dtype="C64", shape=[0], offsets=[0, 0])),
        body_of(tensor(dtype="BF16", shape=[2]), b"\0\0\0\0"),
        body_of(tensor(dtype=["F32"]), b"\0\0\0\0"),
        body_of(tensor(shape=[2]), b"\0\0\0\0"),
        body_of(tensor(shape=[True]), b"\0\0\0\0"),
        body_of(tensor(shape=[-1, -1]), b"\0\0\0\0"),
        body_of(tensor(shape=[1.0]), b"\0\0\0\0"),
        body_of(tensor(shape={"1": 1}), b"\0\0\0\0"),
        body_of(tensor(shape=[1] * 65), b"\0\0\0\0"),
        body_of(tensor(shape=[0, 2**63 - 1, 2**63 - 1], offsets=[0, 0])),
        body_of(tensor(shape=[0, 2**64 - 1], offsets=[0, 0])),
        body_of(tensor(shape=[2**62, 4], offsets=[0, 0])),
        body_of(tensor(offsets=[4, 8]), b"\0" * 8),
        body_of(tensor(offsets=[0, 4]), b"\0" * 5),
        body_of(tensor(offsets=[0, 4]), b"\0" * 3),
        body_of(tensor(offsets=[4, 0]), b"\0" * 4),
        body_of(tensor(offsets=[0, 4, 4]), b"\0" * 4),
        body_of(tensor(extra=1), b"\0" * 4),
        body_of({**tensor(), "__metadata__": {"note": "secret"}}, b"\0" * 4),
        body_of(b'{"0.0":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 2 + b"}"),
        body_of(b"[" * 100_000),
        body_of(b"[]"),
        body_of(b"null"),
        struct.pack("<Q", 2**64 - 1) + b"{}",
        b"\0" * 7,
    ],
)
def test_a_bad_one_is_refused(body: bytes) -> None:
    with pytest.raises(RecordsError):
        unpack(ONE, body)


def test_a_name_that_occurs_twice_is_refused() -> None:
    one = b'"0.0":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    assert unpack(ONE, body_of(b"{" + one + b"}"))[0].values[0].shape == (0,)
    with pytest.raises(RecordsError):
        unpack(ONE, body_of(b"{" + one + b"," + one + b"}"))
