# SPDX-License-Identifier: Apache-2.0
"""Records: what was packed comes back, its bytes depend on the values alone, and nothing else is taken."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import save

from homebound.records import DTYPES, Record, Records, RecordsError, pack, unpack

ARRAYS = npst.arrays(
    dtype=st.sampled_from(sorted(DTYPES, key=str)), shape=npst.array_shapes(min_dims=0, max_side=3)
)
NAMES = st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True)


def same(one: Records, two: Records) -> bool:
    return [(r.name, r.kind, r.keys) for r in one] == [(r.name, r.kind, r.keys) for r in two] and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        if isinstance(a, np.ndarray)
        else a == b
        for one_record, two_record in zip(one, two, strict=True)
        for a, b in zip(one_record.values, two_record.values, strict=True)
    )


@given(names=NAMES, keys=NAMES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_was_packed_comes_back(names: list[str], keys: list[str], data: st.DataObject) -> None:
    values = tuple(data.draw(ARRAYS) for _ in keys)
    records = tuple(Record(name, "arrays", tuple(keys), values) for name in names)
    assert same(unpack(*pack(records)), records)


def test_numbers_and_words_come_back_with_their_order() -> None:
    records = (
        Record("m", "metrics", ("z", "a"), (1, [0.5, 2.0])),
        Record("c", "config", ("t", "b"), ("text", True)),
    )
    assert unpack(*pack(records)) == records


def test_bytes_depend_on_the_values_alone() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = (Record("a", "arrays", ("w",), (array,)),)
    strided = (Record("a", "arrays", ("w",), (np.asfortranarray(array),)),)
    assert pack(plain) == pack(strided)


def test_objects_are_not_packed() -> None:
    with pytest.raises(RecordsError):
        pack((Record("a", "arrays", ("w",), (np.array([object()]),)),))


GOOD: list[dict[str, Any]] = [{"name": "a", "kind": "arrays", "keys": ["w"]}]
BODY = save({"0.0": np.zeros(2, np.float32)})


def test_the_form_that_the_bad_ones_are_made_of_is_good() -> None:
    assert unpack(GOOD, BODY)[0].keys == ("w",)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({}, BODY),
        (["x"], BODY),
        ([{"name": "a", "kind": "code", "keys": ["w"]}], BODY),
        ([{"name": 1, "kind": "arrays", "keys": ["w"]}], BODY),
        ([{"name": "a", "kind": "arrays", "keys": ["w", "w"]}], BODY),
        ([{"name": "a", "kind": "arrays", "keys": ["w", "v"]}], BODY),
        ([{"name": "a", "kind": "arrays", "keys": []}], BODY),
        ([{"name": "a", "kind": "arrays", "keys": ["w"], "note": "x"}], BODY),
        ([*GOOD, {"name": "a", "kind": "config", "keys": [], "values": []}], BODY),
        ([*GOOD, {"name": "m", "kind": "metrics", "keys": ["k"], "values": ["text"]}], BODY),
        ([*GOOD, {"name": "m", "kind": "metrics", "keys": ["k"], "values": [True]}], BODY),
        ([*GOOD, {"name": "m", "kind": "metrics", "keys": ["k"], "values": []}], BODY),
        ([*GOOD, {"name": "m", "kind": "config", "keys": ["k"], "values": [{"a": 1}]}], BODY),
        (GOOD, b""),
        (GOOD, BODY[:-1]),
        (GOOD, b"\x00" * 64),
        (GOOD, pickle.dumps({"0.0": [1, 2]})),
        (GOOD, (2**60).to_bytes(8, "little") + b"{}"),
    ],
)
def test_nothing_else_is_taken(header: Any, body: bytes) -> None:
    with pytest.raises(RecordsError):
        unpack(header, body)
