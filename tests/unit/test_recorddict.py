# SPDX-License-Identifier: Apache-2.0
"""Flower's RecordDict crosses and comes back the same; torch is not needed for it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from homebound.recorddict import from_records, to_records
from homebound.records import RecordsError, pack, unpack


def test_a_recorddict_comes_back_the_same() -> None:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.ones((2, 3), np.float32)), "n": Array(np.array(7))}),
            "config": ConfigRecord({"lr": 0.1, "name": "x", "key": b"\x00\xff", "flags": [True, False]}),
            "metrics": MetricRecord({"loss": 0.5, "counts": [1, 2]}),
        }
    )
    back = from_records(unpack(*pack(to_records(content))))
    assert back["config"] == content["config"]
    assert back["metrics"] == content["metrics"]
    assert list(back) == list(content)
    for key, array in content.array_records["arrays"].items():
        assert back.array_records["arrays"][key].numpy().tobytes() == array.numpy().tobytes()
        assert back.array_records["arrays"][key].dtype == array.dtype


def test_a_pickled_array_does_not_cross() -> None:
    bad = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=b"\x80\x04K\x01.")
    with pytest.raises(RecordsError):
        to_records(RecordDict({"arrays": ArrayRecord({"w": bad})}))


def test_it_does_not_import_torch() -> None:
    code = "import sys, homebound.recorddict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
