# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation in a guard's process: what it tells, what the trainer sees, what is paid, what ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from homebound.books.signing import Signer
from homebound.guard.release import Release, Task
from homebound.guard.secagg import forms
from homebound.guard.secagg.session import Session
from homebound.records import Record, Records, unpack
from homebound.settings import GuardSettings
from unit.guard.rig import HONEST, Rig, W, entries, model, read, rig, write

# One release of noise 1 costs epsilon 5; a second would be too much.
ONCE: dict[str, Any] = {
    "noise_multiplier": 1.0,
    "epsilon_limit": 6.0,
    "run_epsilon_limit": 0.0,
    "min_examples": 0,
}
TERMS = {
    "sample_num": 3, "share_num": 3, "threshold": 2, "clipping_range": 8.0, "target_range": 1 << 22,
    "mod_range": 1 << 32, "max_weight": 1000.0,
}  # fmt: skip
# The model as Flower's older strategies send it.
SENT = (*model(W, name="fitins.parameters"), Record("fitins.config", "config", ("lr",), (0.1,)))


def question(stage: str, values: dict[str, Any]) -> Records:
    told = {**values, forms.STAGE: stage}
    return (Record(forms.RECORD, "config", tuple(told), tuple(told.values())),)


def values(records: Records) -> dict[str, Any]:
    return dict(zip(records[0].keys, records[0].values, strict=True))


def ask(guard: Rig, records: Records) -> dict[str, Any]:
    """A stage that the guard answers by itself."""
    guard.send_task(records)
    assert guard.hear("started")["kind"] == "secagg"
    frame = read(guard.gateway)
    assert frame.kind == "release", frame.header
    assert guard.hear("released")["kind"] == "secagg"
    return values(unpack(frame.header["payload"], frame.body))


def told(session: Session, records: Records) -> dict[str, Any]:
    answer = session.receive(Task("t1", "r1", 1, "train", records))
    assert isinstance(answer, Release)
    return values(answer.records)


def until_numbers(guard: Rig) -> Records:
    """Setup and shares with two honest neighbours; what an honest server asks for then."""
    others = [Session(GuardSettings(), Signer(os.urandom(32)), os.urandom) for _ in range(2)]
    setup = question(forms.SETUP, TERMS)
    keys = [ask(guard, setup), *(told(other, setup) for other in others)]
    listed = question(forms.SHARE_KEYS, {str(n): [pair["pk1"], pair["pk2"]] for n, pair in enumerate(keys)})
    ask(guard, listed)
    given = [told(other, listed) for other in others]
    sealed = [shares["ctxts"][shares["dsts"].index(0)] for shares in given]
    return SENT + question(forms.COLLECT, {"srcs": [1, 2], "ctxts": sealed})


def test_a_sum_costs_one_release_and_its_end_none(tmp_path: Path) -> None:
    with rig(tmp_path, **ONCE) as guard:
        trainer = guard.trainer()
        guard.send_task(until_numbers(guard))
        assert guard.hear("started")["kind"] == "train"
        seen = read(trainer)
        given = unpack(seen.header["records"], seen.body)
        assert [(r.name, r.keys) for r in given] == [
            ("arrays", ("k0",)),
            ("config", ("lr",)),
            (forms.RECORD, ()),
        ]
        assert np.array_equal(given[0].values[0], W)
        write(trainer, "update", {"task": "t1"}, HONEST)
        frame = read(guard.gateway)
        masked = unpack(frame.header["payload"], frame.body)
        assert [record.name for record in masked][-1] == forms.RECORD
        assert guard.hear("released")["kind"] == "train"
        # The budget is spent now; what the others need to end the sum is still given.
        asked = ask(guard, question(forms.UNMASK, {"active_nids": [0, 1, 2], "dead_nids": []}))
        assert asked["nids"] == [0, 1, 2]
        guard.send_task(question(forms.SETUP, TERMS))
        guard.refusal("budget")
    costs = [json.loads(entry.details).get("cost") for entry in entries(tmp_path)]
    assert costs == [0.0, 0.0, 1.0, 0.0, None]


def test_a_restart_ends_a_sum(tmp_path: Path) -> None:
    with rig(tmp_path, **ONCE) as guard:
        asked = until_numbers(guard)
    with rig(tmp_path, **ONCE) as guard:
        guard.send_task(asked)
        guard.refusal("secagg_stage")
