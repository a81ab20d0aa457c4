# SPDX-License-Identifier: Apache-2.0
"""Prints what masking a 100 MB update for secure aggregation costs the guard: seconds and peak memory.

A real guard process with default settings, its server played by this one, its neighbours sessions in here.
Run: python tests/bench/guard_secagg.py [megabytes] [devices]
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "daemon")]
os.environ["PYTHONPATH"] = sys.path[1]

from bench.guard_throughput import LAYERS, memory, processor  # noqa: E402
from homebound.books.signing import Signer  # noqa: E402
from homebound.channel import Frame  # noqa: E402
from homebound.guard.release import Release, Task  # noqa: E402
from homebound.guard.secagg import forms  # noqa: E402
from homebound.guard.secagg.session import Session  # noqa: E402
from homebound.records import Record, Records, unpack  # noqa: E402
from homebound.settings import GuardSettings  # noqa: E402
from unit.guard.rig import Rig, metrics, model, read, rig, write  # noqa: E402

TERMS = {
    "sample_num": 0, "share_num": 0, "threshold": 0, "clipping_range": 8.0,
    "target_range": 1 << 22, "mod_range": 1 << 32, "max_weight": 1000.0,
}  # fmt: skip


def question(stage: str, values: dict[str, Any]) -> Records:
    told = {**values, forms.STAGE: stage}
    return (Record(forms.RECORD, "config", tuple(told), tuple(told.values())),)


def values(records: Records) -> dict[str, Any]:
    return dict(zip(records[0].keys, records[0].values, strict=True))


def ask(guard: Rig, records: Records) -> dict[str, Any]:
    """A stage without the app: what the guard answers."""
    guard.send_task(records)
    guard.hear("started")
    frame = read(guard.gateway)
    assert frame.kind == "release", frame.header
    guard.hear("released")
    return values(unpack(frame.header["payload"], frame.body))


def told(session: Session, records: Records) -> dict[str, Any]:
    answer = session.receive(Task("t1", "r1", 1, "train", records))
    assert isinstance(answer, Release)
    return values(answer.records)


def until_numbers(guard: Rig, devices: int) -> Records:
    """Setup and shares with honest neighbours; what an honest server asks then."""
    others = [Session(GuardSettings(), Signer(os.urandom(32)), os.urandom) for _ in range(devices - 1)]
    terms = {**TERMS, "sample_num": devices, "share_num": devices, "threshold": devices // 2 + 1}
    setup = question(forms.SETUP, terms)
    keys = [ask(guard, setup), *(told(other, setup) for other in others)]
    listed = question(
        forms.SHARE_KEYS, {str(node): [pair["pk1"], pair["pk2"]] for node, pair in enumerate(keys)}
    )
    ask(guard, listed)
    given = [told(other, listed) for other in others]
    sealed = [shares["ctxts"][shares["dsts"].index(0)] for shares in given]
    return question(forms.COLLECT, {"srcs": list(range(1, devices)), "ctxts": sealed})


def main(megabytes: int, devices: int) -> None:
    size = megabytes * 1_000_000 // 4 // LAYERS
    before = model(*(np.ones(size, np.float32) for _ in range(LAYERS)))
    after = model(*(np.full(size, 1.001, np.float32) for _ in range(LAYERS))) + metrics(num_examples=718)
    with tempfile.TemporaryDirectory() as state, rig(Path(state), timeout=600.0) as guard:
        trainer = guard.trainer()
        asked = until_numbers(guard, devices)
        sending = threading.Thread(target=guard.send_task, args=((*before, *asked),))
        sending.start()
        read(trainer)
        sending.join()
        guard.hear("started")
        began = processor(guard.process.pid)
        answers: list[Frame] = []
        reading = threading.Thread(target=lambda: answers.append(read(guard.gateway)))
        reading.start()
        write(trainer, "update", {"task": "t1"}, after)
        reading.join()
        spent, peak = processor(guard.process.pid) - began, memory(guard.process.pid, "VmHWM")
        assert answers[0].kind == "release", answers[0].header
        print(f"update of {megabytes} MB, masked with {devices - 1} neighbours: {spent:.2f} s of processor")
        print(f"peak: {peak:.0f} MB, {peak / megabytes:.2f} x the update")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]), *(100, 5)[len(sys.argv) - 1 :])
