# SPDX-License-Identifier: Apache-2.0
"""The guard as a process: whatever a trainer does ends in a release or a refusal, and the guard goes on.

Every test that provokes a refusal ends with an honest round through the same guard.
"""

from __future__ import annotations

import contextlib
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebound import channel, control
from homebound.channel import Frame
from homebound.guard.app import STOP_SECONDS
from homebound.records import pack, unpack
from unit.guard.rig import (
    EXACT,
    HONEST,
    MODEL,
    W,
    entries,
    honest_round,
    metrics,
    model,
    read,
    released,
    rig,
    write,
)


def test_a_round(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.trainer()
        guard.send_task(MODEL)
        assert guard.hear("started") == {"type": "started", "task": "t1", "round": 1, "kind": "train"}
        frame = read(link)
        assert frame.kind == "task"
        assert frame.header["run_config"] == {"lr": 0.1}
        assert np.array_equal(unpack(frame.header["records"], frame.body)[0].values[0], W)
        write(link, "update", {"task": "t1"}, HONEST)
        told = released(guard)
        (entry,) = entries(tmp_path)
        assert (entry.number, entry.kind, entry.task, entry.round) == (told["entry"], "release", "t1", 1)
        assert (entry.payload_sha256, entry.payload_bytes) == (told["sha256"], told["payload_bytes"])
        assert (entry.norm, entry.clipped) == (told["norm"], 0)
        details = json.loads(entry.details)
        assert details.pop("bits") == {"weights": None, "metrics": 6.9, "counters": 0.0}
        assert details == {
            "message_type": "train",
            "run": "r1",
            "cost": None,
            "noise": 0.0,
            "arrays": 1,
            "clip_norm": 2.0,
            "metrics": {"num-examples": 640},
        }
        honest_round(guard, link)
        guard.tell({"type": "stop"})
        assert guard.process.wait(STOP_SECONDS + 10) == 0


def test_an_evaluation(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL, kind="evaluate")
        write(link, "update", {"task": "t1"}, metrics(accuracy=0.98765))
        frame = read(guard.gateway)
        assert unpack(frame.header["payload"], frame.body)[0].values == (0.99,)
        assert guard.hear("released")["kind"] == "evaluate"


def test_a_task_may_come_before_the_trainer(tmp_path: Path) -> None:
    with rig(tmp_path, warm=False, **EXACT) as guard:
        guard.send_task(MODEL)
        guard.hear("started")
        guard.hear("trainer_wanted")
        link = guard.unloaded_trainer()
        write(link, "ready", {"facts": {"anything": 1}})
        assert read(link).kind == "task"
        write(link, "update", {"task": "t1"}, HONEST)
        released(guard)
        assert read(link).kind == "end"
        with pytest.raises(channel.ChannelClosed):
            read(link)
        # The end of a trainer that was sent home, told late, is not that of the next task's.
        guard.send_task(MODEL, "t2")
        guard.hear("started")
        guard.hear("trainer_wanted")
        guard.tell({"type": "trainer_gone"})
        link = guard.trainer()
        read(link)
        write(link, "update", {"task": "t2"}, HONEST)
        released(guard, "t2")


@pytest.mark.parametrize("sent", [0, 10, 100])
def test_a_trainer_that_dies(tmp_path: Path, sent: int) -> None:
    """At once, in the middle of a prefix, in the middle of a header."""
    header = {"task": "t1", "records": pack(HONEST)[0]}
    body = pack(HONEST)[1]
    head = channel.encode_header(Frame("update", header))
    frame = channel.PREFIX.pack(channel.MAGIC, len(head), len(body)) + head + body
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        link.sendall(frame[:sent])
        link.close()
        assert guard.hear("trainer_failed")["code"] == "trainer_died"
        guard.refusal("trainer_died")
        honest_round(guard)


def test_the_supervisors_word_that_the_trainer_is_gone(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        guard.tell({"type": "trainer_gone"})
        guard.refusal("trainer_died")
        with pytest.raises(channel.ChannelClosed):
            read(link)
        honest_round(guard)


def test_last_words_count(tmp_path: Path) -> None:
    """An update that was sent whole before the trainer ended is judged, whoever is heard first."""
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        write(link, "update", {"task": "t1"}, HONEST)
        guard.tell({"type": "trainer_gone"})
        link.close()
        released(guard)


def test_an_idle_trainer_that_dies(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        guard.trainer().close()
        assert guard.hear("trainer_failed")["code"] == "trainer_died"
        guard.tell({"type": "trainer_gone"})
        honest_round(guard)


def test_an_idle_trainer_must_be_silent(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.trainer()
        with contextlib.suppress(channel.ChannelClosed):  # the guard may be gone before the body is sent
            write(link, "update", {"task": "t1"}, HONEST)
        assert guard.hear("trainer_failed")["code"] == "too_large"
        honest_round(guard)


def test_the_app_does_not_load(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.unloaded_trainer()
        guard.send_task(MODEL)
        guard.hear("started")
        write(link, "failed", {"task": "", "code": "app_not_loaded"})
        assert guard.hear("trainer_failed")["code"] == "app_not_loaded"
        guard.refusal("app_not_loaded")
        honest_round(guard)


def test_an_app_that_failed_costs_the_trainer(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        write(link, "failed", {"task": "t1", "code": "app_failed"})
        assert guard.hear("trainer_failed")["code"] == "app_failed"
        guard.refusal("app_failed")
        guard.tell({"type": "trainer_gone"})
        honest_round(guard)


@pytest.mark.parametrize("sent", [b"", channel.PREFIX.pack(channel.MAGIC, 500, 0) + b"{"])
def test_a_trainer_that_hangs(tmp_path: Path, sent: bytes) -> None:
    with rig(tmp_path, timeout=0.5, **EXACT) as guard:
        link = guard.begin(MODEL)
        link.sendall(sent)
        assert guard.hear("trainer_failed")["code"] == "timeout"
        guard.refusal("timeout")
        guard.tell({"type": "trainer_gone"})
        honest_round(guard)


def test_a_trainer_that_does_not_read(tmp_path: Path) -> None:
    """The task is larger than what a socket holds. The guard neither waits in a write nor stops hearing."""
    with rig(tmp_path, timeout=0.5, **EXACT) as guard:
        guard.trainer()
        guard.send_task(model(np.zeros(1 << 20, np.float32)))
        guard.hear("started")
        assert guard.hear("trainer_failed")["code"] == "timeout"
        guard.refusal("timeout")
        honest_round(guard)


def test_no_trainer_comes(tmp_path: Path) -> None:
    with rig(tmp_path, timeout=0.3, **EXACT) as guard:
        guard.send_task(MODEL)
        guard.hear("started")
        guard.hear("trainer_wanted")
        assert guard.hear("trainer_failed")["code"] == "timeout"
        guard.refusal("timeout")


def test_stop_is_heard_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        link.sendall(channel.PREFIX.pack(channel.MAGIC, 500, 0))
        guard.tell({"type": "stop"})
        assert guard.process.wait(STOP_SECONDS + 10) == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": -1}, "malformed"), ({"message_type": "shell"}, "malformed"),
        ({"records": [1]}, "malformed"),
        ({"filler": "x" * (channel.MAX_HEADER - 5000)}, "too_large"),
    ],
)  # fmt: skip
def test_a_bad_task_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    header, body = pack(MODEL)
    task = {"task": "t1", "run": "r1", "round": 1, "message_type": "train", "records": header, **changes}
    with rig(tmp_path, **EXACT) as guard:
        link = guard.trainer()
        channel.write(guard.gateway, Frame("task", task, body))
        guard.refusal(code)
        honest_round(guard, link)


def test_a_task_that_cannot_be_passed_on(tmp_path: Path) -> None:
    """1e999 is JSON and is read as infinity, which cannot be written again."""
    header, body = pack(MODEL)
    task = {
        "task": "t1",
        "run": "r1",
        "round": 1,
        "message_type": "train",
        "records": header,
        "run_config": 7,
    }
    text = channel.encode_header(Frame("task", task)).replace(b":7", b":1e999")
    with rig(tmp_path, **EXACT) as guard:
        link = guard.trainer()
        guard.gateway.sendall(channel.PREFIX.pack(channel.MAGIC, len(text), len(body)) + text + body)
        guard.refusal("malformed")
        honest_round(guard, link)


def test_the_gateway_breaks_the_form(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        guard.gateway.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert guard.process.wait(10) == 1
        assert guard.process.stderr is not None
        assert guard.process.stderr.read() == "homebound: the guard ends: the peer does not speak frames\n"


def test_no_release_without_an_entry(tmp_path: Path) -> None:
    """The ledger cannot grow: the update stays, the refusal leaves, and with room again all is well."""
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        pid = guard.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        write(link, "update", {"task": "t1"}, HONEST)
        guard.refusal("ledger")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        honest_round(guard, link)
        assert [entry.kind for entry in entries(tmp_path)] == ["release"]


def test_a_second_guard_on_the_same_ledger_ends(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        with pytest.raises(control.ControlClosed), rig(tmp_path, **EXACT):
            pass
        honest_round(guard, guard.trainer())


def test_the_guard_is_lean(tmp_path: Path) -> None:
    """Nothing that unpickles, trains or talks is in its process."""
    with rig(tmp_path, **EXACT) as guard:
        link = guard.begin(MODEL)
        write(link, "update", {"task": "t1"}, HONEST)
        released(guard)
        mapped = Path(f"/proc/{guard.process.pid}/maps").read_text()
        assert "numpy" in mapped
        assert not [name for name in ("torch", "_pydantic", "flwr", "grpc", "_ssl") if name in mapped]
