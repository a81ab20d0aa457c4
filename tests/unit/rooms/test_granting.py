# SPDX-License-Identifier: Apache-2.0
"""The supervisor's half of the gateway's credit: what the gateway says can earn it a bounded sum, and what is
left over goes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.books import accounts
from homebound.books.accounts import Accounts
from homebound.events import Credit
from homebound.gateway import app as gateway
from homebound.rooms import granting
from homebound.rooms.granting import AGAIN, LEFTOVER_BYTES, Granting

# Bytes of stream, measured with flwr 1.42: a poll or a heartbeat; a task and its answer without the payload.
MESSAGE_BYTES, TASK_BYTES, HEARTBEAT_SECONDS = 875, 16_000, 20.0
PAYLOAD, ARRAYS = 1_000_000, 300
ONE = accounts.wire_bytes(PAYLOAD, ARRAYS)
# What stays after a delivery: quick polls, and the next fetch of as many arrays.
KEPT = LEFTOVER_BYTES + ARRAYS * accounts.FETCH_BYTES


class Device:
    """Books and cells as the kernel and the guard would have them."""

    def __init__(self) -> None:
        self.books = Accounts()
        self.cells = dict.fromkeys(Credit, 0)
        self.granting = Granting(self._grant, self._credit)

    def _grant(self, count: int) -> None:
        self.cells[Credit.SUPERVISOR] = (self.cells[Credit.SUPERVISOR] + count) % (1 << 64)

    def _credit(self) -> Mapping[Credit, int]:
        return self.cells

    @property
    def left(self) -> int:
        word = self.cells[Credit.GUARD] + self.cells[Credit.SUPERVISOR] - self.cells[Credit.USED]
        return (word + (1 << 63)) % (1 << 64) - (1 << 63)

    def hear(self, **report: Any) -> None:
        before, self.books = self.books, accounts.fold(self.books, report, 1.0)
        self.granting.follow(report, before, self.books)

    def release(self, task: str = "t1", told: bool = True) -> None:
        """The guard grants, then says so."""
        self.cells[Credit.GUARD] += ONE
        if told:
            said = {"type": "released", "task": task, "round": 1, "kind": "train", "payload_bytes": PAYLOAD}
            self.hear(**said, arrays=ARRAYS, granted=self.cells[Credit.GUARD])

    def push(self, task: str, count: int) -> None:
        self.hear(type="declare", request="push_object", stream_bytes=count, task=task)
        self.cells[Credit.USED] += count


def test_what_is_left_after_a_delivery_goes_back() -> None:
    device = Device()
    device.release()
    device.push("t1", PAYLOAD)
    assert device.left == ONE - PAYLOAD
    device.hear(type="acknowledged", task="t1", released=True)
    assert device.left == KEPT
    device.hear(type="acknowledged", task="t1", released=True)
    assert device.left == KEPT


def test_nothing_goes_back_while_a_release_waits() -> None:
    device = Device()
    device.release("t1")
    device.release("t2")
    device.push("t1", PAYLOAD)
    device.hear(type="acknowledged", task="t1", released=True)
    assert device.left == 2 * ONE - PAYLOAD


def test_a_grant_not_yet_told_of_stays() -> None:
    """The guard has granted for the next release; the word of the last one's delivery is heard first."""
    device = Device()
    device.release("t1")
    device.push("t1", PAYLOAD)
    device.release("t2", told=False)
    device.hear(type="acknowledged", task="t1", released=True)
    assert device.left == KEPT + ONE


def test_a_delivery_that_broke_off_is_paid_for_again_a_few_times() -> None:
    device = Device()
    device.release()
    for number in range(1, AGAIN + 4):
        device.push("t1", 10_000)
        device.hear(type="disconnected", reason="gone", hint="")
        assert device.cells[Credit.SUPERVISOR] == min(number, AGAIN) * ONE
        device.hear(type="connected", node="1")


def test_a_link_that_broke_before_the_delivery_costs_nothing() -> None:
    device = Device()
    device.release()
    device.hear(type="disconnected", reason="gone", hint="")
    assert device.cells[Credit.SUPERVISOR] == 0


def test_what_waits_from_an_earlier_life_is_paid_for_once() -> None:
    device = Device()
    for task in ("old-1", "old-2", "old-3"):
        report = {"type": "released_before", "task": task, "round": 1, "payload_bytes": PAYLOAD}
        report["arrays"] = ARRAYS
        device.books = accounts.fold(device.books, report, 0.0)
    for _ in range(3):
        device.granting.inherit(["old-1", "old-3", "made-up"], device.books)
    assert device.left == 2 * ONE


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("declare unsent disconnected connected acknowledged dropped refused".split()),
            st.sampled_from(["t1", "t2", "made-up"]),
            st.integers(-(2**40), 2**40),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_no_word_of_the_gateway_earns_more_than_the_bound(words: list[tuple[str, str, int]]) -> None:
    """Two releases; after that the gateway says what it likes, and sends nothing."""
    device = Device()
    device.release("t1")
    device.release("t2")
    most = 0
    for kind, task, number in words:
        said = {"type": kind, "task": task, "stream_bytes": number, "granted": abs(number)}
        device.hear(**said, request="push_object", reason="gone", hint="", node="1", code="timeout", round=1)
        most = max(most, device.left)
    assert most <= 2 * ONE + 2 * AGAIN * ONE


def test_the_allowance_follows_the_pace_of_polls() -> None:
    assert granting.rate(1.0) == granting.POLL_BYTES
    assert granting.rate(0.1) == 10 * granting.POLL_BYTES
    assert granting.rate(1e-9) < 1 << 32


@pytest.mark.parametrize("poll_seconds", [0.01, 0.1, 1.0, 10.0, 60.0, 3600.0])
@pytest.mark.parametrize("task_seconds", [3.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0])
def test_an_honest_gateway_never_runs_dry(poll_seconds: float, task_seconds: float) -> None:
    """Rounds for ever, by the gateway's own pace of polls: what one costs is granted or refilled meanwhile.

    Rounds that follow each other within less than three seconds live on the burst and run dry after minutes.
    """
    quiet, polls = 0.0, 0
    while quiet < task_seconds:
        quiet += min(max(quiet / gateway.POLL_RATIO, gateway.QUICK_POLL_SECONDS), poll_seconds)
        polls += 1
    heartbeats = task_seconds / HEARTBEAT_SECONDS
    spent = MESSAGE_BYTES * (polls + heartbeats) + TASK_BYTES
    rounds = accounts.OVERHEAD_BYTES if task_seconds >= 5.0 else accounts.OVERHEAD_BYTES * task_seconds / 5.0
    assert spent <= rounds + granting.rate(poll_seconds) * task_seconds
