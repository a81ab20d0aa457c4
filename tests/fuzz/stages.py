# SPDX-License-Identifier: Apache-2.0
"""A sum that is under way, before each of its stages, and what an honest server asks there.

May import: the guard, books.signing, records.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from homebound.books.signing import Signer
from homebound.guard.release import Release, Task
from homebound.guard.secagg import forms
from homebound.guard.secagg.session import Session, Sum
from homebound.records import Record
from homebound.settings import GuardSettings

NODES = (3, 4, 5)
TERMS = {
    "sample_num": 3, "share_num": 3, "threshold": 2, "clipping_range": 8.0,
    "target_range": 1 << 22, "mod_range": 1 << 32, "max_weight": 1000.0,
}  # fmt: skip


def question(stage: str, values: dict[str, Any]) -> Record:
    told = {**values, forms.STAGE: stage}
    return Record(forms.RECORD, "config", tuple(told), tuple(told.values()))


def session(settings: GuardSettings, stage: str) -> Session:
    """One that an honest server would ask for this stage next; a fresh one before any other word."""
    found = Session(settings, Signer(bytes(32)), bytes)
    if stage in sums():
        found._sum = replaced(sums()[stage])
    return found


def replaced(work: Sum) -> Sum:
    """A copy that may be changed; keys cannot be copied and never change."""
    twin = copy.copy(work)
    twin.agreed, twin.masked_with, twin.shares = dict(work.agreed), dict(work.masked_with), dict(work.shares)
    return twin


def honest() -> dict[str, Record]:
    """What is asked of the first device at each stage."""
    return course()[0]


def sums() -> dict[str, Sum]:
    """The first device's sum before each stage but the first."""
    return course()[1]


@functools.cache
def course() -> tuple[dict[str, Record], dict[str, Sum]]:
    """A whole sum of honest devices and an honest server."""
    before: dict[str, Sum] = {}
    sessions = [Session(GuardSettings(), Signer(bytes([node]) * 32), bytes) for node in NODES]
    asked = {forms.SETUP: question(forms.SETUP, TERMS)}
    answers = [told(one, asked[forms.SETUP]) for one in sessions]
    keys = {str(node): [pair["pk1"], pair["pk2"]] for node, pair in zip(NODES, answers, strict=True)}
    asked[forms.SHARE_KEYS] = question(forms.SHARE_KEYS, keys)
    before[forms.SHARE_KEYS] = kept(sessions[0])
    given = [told(one, asked[forms.SHARE_KEYS]) for one in sessions]
    before[forms.COLLECT] = kept(sessions[0])
    sealed = [shares["ctxts"][shares["dsts"].index(NODES[0])] for shares in given[1:]]
    asked[forms.COLLECT] = question(forms.COLLECT, {"srcs": [*NODES[1:]], "ctxts": sealed})
    sessions[0].receive(task(asked[forms.COLLECT]))
    before[forms.UNMASK] = kept(sessions[0])
    asked[forms.UNMASK] = question(forms.UNMASK, {"active_nids": [*NODES], "dead_nids": []})
    return asked, before


def kept(one: Session) -> Sum:
    assert one._sum is not None
    return replaced(one._sum)


def task(record: Record) -> Task:
    return Task("t", "r", 1, "train", (record,))


def told(one: Session, record: Record) -> dict[str, Any]:
    answer = one.receive(task(record))
    assert isinstance(answer, Release)
    return dict(zip(answer.records[0].keys, answer.records[0].values, strict=True))
