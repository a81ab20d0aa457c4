# SPDX-License-Identifier: Apache-2.0
"""The decision as a whole: what may leave, what may not and why, and that the bytes have one form."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound import channel
from homebound.channel import Frame
from homebound.guard import privacy, release
from homebound.guard.checks import Refusal
from homebound.guard.noise import gaussian
from homebound.guard.release import Release, Task
from homebound.records import Record, Records, RefusalCode, pack, unpack
from homebound.settings import GuardSettings
from unit.guard.rig import metrics, model, zeros

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.zeros(3, np.float64)
COUNTER = np.asarray(7, np.int64)
MODEL = model(W, B, COUNTER)
HONEST = model(W + np.float32(0.25), B, COUNTER + 23) + metrics(num_examples=718, loss=0.12345)
# A grid of 2^-9: 0.25 is on it, so that without noise and clipping a change comes back exactly.
EXACT = GuardSettings(clip_norm=2.0, noise_multiplier=0.0, quantum_bits=10, min_examples=0)


def task(records: Records = MODEL, kind: str = "train") -> Task:
    return Task("t1", "r1", 1, kind, records)


def decided(update: Records, kind: str = "train", settings: GuardSettings = EXACT) -> Release:
    decision = release.decide(task(kind=kind), update, settings, zeros)
    assert isinstance(decision, Release), decision
    return decision


def refused(update: Records, kind: str = "train", records: Records = MODEL) -> RefusalCode:
    decision = release.decide(task(records, kind), update, EXACT, zeros)
    assert isinstance(decision, Refusal)
    return decision.code


def test_an_honest_update_leaves() -> None:
    found = decided(HONEST)
    assert [(r.name, r.kind, r.keys) for r in found.records] == [
        ("arrays", "arrays", ("k0", "k1", "k2")), ("metrics", "metrics", ("loss", "num-examples")),
    ]  # fmt: skip
    w, b, counter = found.records[0].values
    assert np.array_equal(w, W + np.float32(0.25))
    assert np.array_equal(b, B)
    assert (counter.item(), counter.dtype) == (30, np.int64)
    assert found.records[1].values == (0.12, 640)
    assert (found.norm, found.clipped) == (pytest.approx(math.sqrt(6) / 4), False)


def test_a_large_change_is_clipped() -> None:
    found = decided(model(W + 100, B, COUNTER))
    w = found.records[0].values[0].astype(np.float64)
    assert found.clipped
    assert found.norm == pytest.approx(100 * math.sqrt(6))
    assert np.linalg.norm(w - W) == pytest.approx(2.0, abs=0.01)


def test_a_zero_update_leaves_as_noise_alone() -> None:
    noisy = GuardSettings(clip_norm=1.0, noise_multiplier=0.5, min_examples=0)
    found = release.decide(task(), MODEL, noisy, gaussian)
    assert isinstance(found, Release)
    assert (found.norm, found.clipped) == (0.0, False)
    assert not np.array_equal(found.records[0].values[0], W)
    assert np.abs(found.records[0].values[0] - W).max() < 9 * 0.5


@pytest.mark.parametrize("kind", ["evaluate", "query"])
def test_other_tasks_are_answered_with_metrics_alone(kind: str) -> None:
    found = decided(metrics("anything", accuracy=0.98765, num_examples=360), kind)
    assert found.records == (Record("metrics", "metrics", ("accuracy", "num-examples"), (0.99, 320)),)
    assert (found.norm, found.clipped) == (0.0, False)
    assert refused(MODEL, kind) is RefusalCode.SCHEMA


HOSTILE: dict[str, tuple[Records, RefusalCode]] = {
    "nothing": ((), RefusalCode.SCHEMA),
    "nan": (model(W * np.float32(math.nan), B, COUNTER), RefusalCode.NOT_FINITE),
    "too far": (model(W, B + 1e200, COUNTER), RefusalCode.NOT_FINITE),
    "shape": (model(W.reshape(3, 2), B, COUNTER), RefusalCode.SCHEMA),
    "dtype": (model(W.astype(np.float64), B, COUNTER), RefusalCode.SCHEMA),
    "extra key": (model(W, B, COUNTER, W), RefusalCode.SCHEMA),
    "missing key": (model(W, B), RefusalCode.SCHEMA),
    "second model": (MODEL + model(W, name="more"), RefusalCode.SCHEMA),
    "counter": (model(W, B, COUNTER + 2**40), RefusalCode.SCHEMA),
    "metric": (MODEL + metrics(secret=1.0), RefusalCode.METRIC_NOT_ALLOWED),
    "list": (MODEL + metrics(loss=[1.0]), RefusalCode.METRIC_NOT_ALLOWED),
    "nan metric": (MODEL + metrics(loss=math.nan), RefusalCode.NOT_FINITE),
    "second metrics": (MODEL + metrics("a") + metrics("b"), RefusalCode.METRIC_NOT_ALLOWED),
    "config": ((*MODEL, Record("c", "config", ("k",), ("v",))), RefusalCode.METRIC_NOT_ALLOWED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_dishonest_update_stays(name: str) -> None:
    update, code = HOSTILE[name]
    assert refused(update) is code
    assert decided(HONEST)


@settings(max_examples=40, deadline=None)
@given(st.permutations(("num_examples", "loss", "accuracy")), st.booleans(), st.floats(-0.4, 0.4))
def test_bytes_depend_on_the_values_alone(order: list[str], first: bool, nudge: float) -> None:
    """Not on the order of records and metrics, on names of records, or on bits below the grid."""
    values: dict[str, Any] = {"num_examples": 718, "loss": 0.5, "accuracy": 0.25}
    step = privacy.mechanism(EXACT).quantum
    given_ = model(W + 0.25, B + nudge * step, COUNTER)
    report = metrics("name", **{key: values[key] for key in order})
    found = release.payload(decided(report + given_ if first else given_ + report))
    plain = release.payload(decided(model(W + 0.25, B, COUNTER) + metrics(**values)))
    assert (found.header, bytes(found.body), found.sha256) == (plain.header, bytes(plain.body), plain.sha256)


def test_payload_tells_what_leaves() -> None:
    found = release.payload(decided(HONEST))
    head = channel.encode_header(Frame("release", {"payload": found.header}))
    assert found.sha256 == hashlib.sha256(head + found.body).hexdigest()
    assert found.size == len(head) + len(found.body)
    assert np.array_equal(unpack(found.header, found.body)[0].values[0], W + np.float32(0.25))


def header(**changes: Any) -> dict[str, Any]:
    records, _ = pack(MODEL)
    return {"task": "t1", "run": "9", "round": 3, "message_type": "train", "records": records, **changes}


def test_a_task_is_read() -> None:
    found = release.read_task(header(), pack(MODEL)[1])
    assert (found.task, found.run, found.round, found.message_type) == ("t1", "9", 3, "train")
    assert np.array_equal(found.records[0].values[0], W)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": ""}, {"task": 5}, {"task": "x" * 129}, {"task": "a\nb"}, {"run": None}, {"round": -1},
        {"round": True}, {"round": 2**31}, {"round": 1.0}, {"message_type": "shell"},
        {"message_type": ["train"]}, {"records": None}, {"records": []}, {"task": "\ud800"},
    ],
)  # fmt: skip
def test_a_task_that_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        release.read_task(header(**changes), pack(MODEL)[1])
    assert caught.value.code is RefusalCode.MALFORMED


def test_a_task_that_leads_nowhere() -> None:
    """Refused before an hour of training; an evaluation of such a model is the app's own business."""
    records, body = pack(model(W + np.float32(math.inf)))
    with pytest.raises(Refusal, match="not_finite"):
        release.read_task(header(records=records), body)
    assert release.read_task(header(records=records, message_type="evaluate"), body).task == "t1"


def test_an_update_is_read() -> None:
    records, body = pack(HONEST)
    assert len(release.read_update({"records": records}, body, len(body))) == 2
    with pytest.raises(Refusal, match="too_large"):
        release.read_update({"records": records}, body, len(body) - 1)
    for bad in (b"", b"\x80\x04\x95", body[:-1], body + b"x"):
        with pytest.raises(Refusal, match="malformed"):
            release.read_update({"records": records}, bad, 1 << 20)
    with pytest.raises(Refusal, match="malformed"):
        release.read_update({}, body, 1 << 20)
