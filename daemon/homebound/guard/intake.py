# SPDX-License-Identifier: Apache-2.0
"""A frame of the gateway <-> the task in it. Pure. May import: channel, records, checks and release."""

from __future__ import annotations

from typing import Any

from homebound import channel
from homebound.channel import ChannelError, Frame
from homebound.guard import release
from homebound.guard.checks import Refusal
from homebound.guard.release import Task
from homebound.records import Record, RefusalCode

# What a release says in its header besides the names in it.
HEADER_ROOM = 1 << 16


def read(frame: Frame) -> Task:
    """The task in a frame that can be passed on. Refusal malformed, schema, not_finite or too_large."""
    task = release.read_task(frame.header, frame.body)
    try:
        size = len(channel.encode_header(frame))
    except (ValueError, ChannelError) as error:  # a number such as 1e999 is read, but cannot be written
        raise Refusal(RefusalCode.MALFORMED) from error
    if size > channel.MAX_HEADER - HEADER_ROOM:
        raise Refusal(RefusalCode.TOO_LARGE)
    return task


def unread(frame: Frame) -> Task:
    """What can be said of a task that could not be read."""
    task = frame.header.get("task")
    return Task(task if release.is_name(task) else "", "", 0, "", ())


def passed_on(frame: Frame, task: Task) -> Frame:
    """The frame with the records as ``task`` has them: their names and values may differ, not their arrays,
    which stay where they are in the body."""
    return Frame(
        frame.kind, {**frame.header, "records": [_entry(record) for record in task.records]}, frame.body
    )


def _entry(record: Record) -> dict[str, Any]:
    values = {} if record.kind == "arrays" else {"values": list(record.values)}
    return {"name": record.name, "kind": record.kind, "keys": list(record.keys), **values}
