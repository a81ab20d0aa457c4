# SPDX-License-Identifier: Apache-2.0
"""All that the guard does with bytes of a hostile peer, as one function that ends in a word of a closed set.

Used with coverage-guided inputs by frames.py (`make fuzz`) and with a few by test_parsing.py.
May import: channel, records, settings, the guard.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzz import stages
from homebound import channel
from homebound.channel import Frame, FrameReader
from homebound.guard import models, release
from homebound.guard.checks import Refusal
from homebound.guard.release import Task
from homebound.guard.secagg import forms
from homebound.records import Record, pack
from homebound.settings import GuardSettings

MAX_BODY = 1 << 16
SETTINGS = GuardSettings(min_examples=0)
MODEL = (Record("arrays", "arrays", ("w", "n"), (np.arange(6, dtype=np.float32).reshape(2, 3), np.array(4))),)
UPDATE = (*MODEL, Record("metrics", "metrics", ("loss", "num-examples"), (0.5, 70)))
TASK = Task("t", "r", 1, "train", MODEL)
# What an input begins with: who is taken to send it, and which part of a frame it is.
UPDATES, TASKS = 0, 1
STREAM, HEADER, BODY = 0, 1, 2


class Bytes:
    """The receiving end of a stream that holds these bytes, in pieces of at most ``step``."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = memoryview(data)
        self._step = step

    def recv_into(self, view: memoryview) -> int:
        count = min(len(view), len(self._data), self._step)
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def frame_of(kind: str, fields: dict[str, Any], records: Any) -> Frame:
    header, body = pack(records)
    return Frame(kind, {**fields, "records": header}, body)


FRAMES = {
    UPDATES: frame_of("update", {"task": "t", "counted": 70}, UPDATE),
    TASKS: frame_of(
        "task", {"task": "t", "run": "r", "round": 1, "message_type": "train", "run_config": {}}, MODEL
    ),
}


def asked(stage: str) -> Frame:
    """The frame by which an honest server asks for a stage, with the body of a good task."""
    records = (*MODEL, stages.honest()[stage])
    return frame_of("task", {"task": "t", "run": "r", "round": 1, "message_type": "train"}, records)


def wire(header: bytes, body: bytes) -> bytes:
    return channel.PREFIX.pack(channel.MAGIC, len(header), len(body)) + header + body


def stream(data: bytes) -> tuple[int, bytes]:
    """The sender and the bytes on the wire that an input stands for."""
    sender, part, content = data[0] & 1, data[0] >> 1 & 3, data[1:]
    good = FRAMES[sender]
    if part == HEADER:
        return sender, wire(content, bytes(good.body))
    if part == BODY:
        return sender, wire(channel.encode_header(good), content)
    return sender, content


def judge(data: bytes) -> str:
    """What becomes of an input. Any exception from here is a fault of the guard."""
    if not data:
        return "nothing"
    sender, content = stream(data)
    reader = FrameReader(Bytes(content, 1 + data[0]), MAX_BODY)  # type: ignore[arg-type]
    try:
        while (frame := reader.read_some()) is None:
            pass
    except channel.ChannelError:
        return "no frame"
    try:
        return take_task(frame) if sender == TASKS else take_update(frame)
    except Refusal as refusal:
        return refusal.code.value


def take_task(frame: Frame) -> str:
    task = release.read_task(frame.header, frame.body)
    models.check_model(task.records)
    values = forms.values_of(task.records) if task.message_type == "train" else None
    if values is not None:
        stages.session(SETTINGS, values[forms.STAGE]).receive(task)
        return "stage"
    return "task"


def take_update(frame: Frame) -> str:
    update = release.read_update(frame.header, frame.body, MAX_BODY)
    counted = release.read_counted(frame.header)
    decision = release.decide(TASK, update, SETTINGS, np.zeros, counted)
    if isinstance(decision, Refusal):
        return decision.code.value
    release.payload(decision)
    return "released"
