# SPDX-License-Identifier: Apache-2.0
"""A hostile trainer: whatever it sends is refused with the right code, and the guard goes on.

The first tests hold a guard's process and end with an honest round through it; the last ones take its
steps in this process, so that many broken frames can be tried.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound import channel
from homebound.channel import Frame
from homebound.guard import release
from homebound.guard.checks import Refusal
from homebound.guard.links import Link
from homebound.guard.release import Task
from homebound.records import RefusalCode, pack
from homebound.settings import GuardSettings
from unit.guard.rig import EXACT, HONEST, MODEL, W, entries, honest_round, metrics, model, rig, write, zeros


def nan(link: socket.socket) -> None:
    write(link, "update", {"task": "t1"}, model(np.full((2, 3), np.nan, np.float32)))


def wrong_shape(link: socket.socket) -> None:
    write(link, "update", {"task": "t1"}, model(W.T))


def extra_key(link: socket.socket) -> None:
    write(link, "update", {"task": "t1"}, model(W, W))


def wrong_dtype(link: socket.socket) -> None:
    write(link, "update", {"task": "t1"}, model(W.astype(np.float64)))


def secret_metric(link: socket.socket) -> None:
    write(link, "update", {"task": "t1"}, MODEL + metrics(secret=1))


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        (nan, "not_finite"), (wrong_shape, "schema"), (extra_key, "schema"), (wrong_dtype, "schema"),
        (secret_metric, "metric_not_allowed"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_and_the_trainer_stays(
    tmp_path: Path, hostile: Callable[[socket.socket], None], code: str
) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        hostile(link)
        guard.refusal(code)
        honest_round(guard, link)
        first, second = entries(tmp_path)
        assert (first.kind, json.loads(first.details)["code"]) == ("refusal", code)
        assert second.kind == "release"


def body_of(records: Any) -> tuple[dict[str, Any], bytes]:
    header, body = pack(records)
    return {"task": "t1", "records": header}, body


def wrong_task(link: socket.socket) -> None:
    write(link, "update", {"task": "t0"}, HONEST)


def no_task(link: socket.socket) -> None:
    write(link, "update", {}, HONEST)


def unknown_kind(link: socket.socket) -> None:
    write(link, "release", {"task": "t1"}, HONEST)


def ready_twice(link: socket.socket) -> None:
    write(link, "ready", {"facts": {}})


def free_words(link: socket.socket) -> None:
    write(link, "failed", {"task": "t1", "code": "patient 4711 has"})


def foreign_code(link: socket.socket) -> None:
    write(link, "failed", {"task": "t1", "code": "budget"})


def code_that_is_none(link: socket.socket) -> None:
    write(link, "failed", {"task": "t1", "code": ["app_failed"]})


def garbage(link: socket.socket) -> None:
    link.sendall(bytes(range(256)) * 4)


def pickled(link: socket.socket) -> None:
    link.sendall(pickle.dumps(W))


def pickled_body(link: socket.socket) -> None:
    header, _ = body_of(HONEST)
    channel.write(link, Frame("update", header, pickle.dumps(W)))


def deep_json(link: socket.socket) -> None:
    deep = b"[" * 100_000
    link.sendall(channel.PREFIX.pack(channel.MAGIC, len(deep), 0) + deep)


def not_a_number(link: socket.socket) -> None:
    text = b'{"kind":"update","task":"t1","records":NaN}'
    link.sendall(channel.PREFIX.pack(channel.MAGIC, len(text), 0) + text)


def cut_body(link: socket.socket) -> None:
    header, body = body_of(HONEST)
    channel.write(link, Frame("update", header, body[:-4]))


def absurd_shape(link: socket.socket) -> None:
    text = json.dumps({"0.0": {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}).encode()
    header, _ = body_of(MODEL)
    channel.write(link, Frame("update", header, struct.pack("<Q", len(text)) + text))


@pytest.mark.parametrize(
    "hostile",
    [
        wrong_task, no_task, unknown_kind, ready_twice, free_words, foreign_code, code_that_is_none, garbage,
        pickled, pickled_body, deep_json, not_a_number, cut_body, absurd_shape,
    ],
)  # fmt: skip
def test_a_broken_frame_costs_the_trainer(tmp_path: Path, hostile: Callable[[socket.socket], None]) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        hostile(link)
        assert guard.hear("trainer_failed")["code"] == "malformed"
        guard.refusal("malformed")
        guard.tell({"type": "trainer_gone"})
        honest_round(guard)


def test_a_huge_frame_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        before = resident(guard.process.pid)
        link.sendall(channel.PREFIX.pack(channel.MAGIC, 2, 1 << 40))
        assert guard.hear("trainer_failed")["code"] == "too_large"
        guard.refusal("too_large")
        assert resident(guard.process.pid) < before + (16 << 20)
        honest_round(guard)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def encoded(header: dict[str, Any], body: bytes) -> bytearray:
    """An update frame as it goes over the link."""
    head = channel.encode_header(Frame("update", header))
    return bytearray(channel.PREFIX.pack(channel.MAGIC, len(head), len(body)) + head + body)


def judged(data: bytearray) -> str:
    """What becomes of these bytes, by the steps of the guard: the code of a refusal, or another word."""
    task = Task("t1", "r1", 1, "train", MODEL)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.close()
        link = Link(right, 1 << 16)
        try:
            while (frame := link.read()) is None:
                pass
            update = release.read_update(frame.header, frame.body, 1 << 16)
        except channel.ChannelClosed:
            return "cut"
        except channel.ChannelError:
            return "no frame"
        except Refusal as refusal:
            return refusal.code.value
        decision = release.decide(task, update, GuardSettings(**EXACT), zeros)
        if isinstance(decision, Refusal):
            return decision.code.value
        release.payload(decision)
        return "released"


def test_the_frame_that_is_spoilt_below_is_good() -> None:
    assert judged(encoded(*body_of(HONEST))) == "released"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_spoilt_frame_ends_in_a_word_of_the_closed_set(data: st.DataObject) -> None:
    """Bytes changed, cut out and put in anywhere: never another exception."""
    frame = encoded(*body_of(HONEST))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(frame)))
        frame[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert judged(frame) in {"cut", "no frame", "released", *RefusalCode}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["records", "name", "kind", "keys", "values"]),
    st.integers(0, 1),
    JSON | st.just("arrays"),
)
def test_a_header_of_any_json_ends_in_a_word_of_the_closed_set(field: str, number: int, value: Any) -> None:
    header, body = body_of(HONEST)
    records = json.loads(json.dumps(header["records"]))
    if field == "records":
        records = value
    else:
        records[number][field] = value
    try:
        frame = encoded({"task": "t1", "records": records}, body)
    except ValueError:
        return  # an infinity, which no header can hold
    assert judged(frame) in {"no frame", "released", *RefusalCode}
