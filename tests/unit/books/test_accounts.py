# SPDX-License-Identifier: Apache-2.0
"""accounts.py: the sums are right, no report lowers them, and what stands unexplained is found."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebound.books.accounts import (
    OVERHEAD_BYTES,
    TASKS_KEPT,
    Accounts,
    RoleState,
    Standing,
    fold,
    reconcile,
    settle,
    to_report,
)

Report = dict[str, Any]


def folded(*reports: Report, start: Accounts | None = None) -> Accounts:
    accounts = start or Accounts()
    for now, report in enumerate(reports):
        accounts = fold(accounts, report, float(now))
    return accounts


def started(task: str = "t1") -> Report:
    return {"type": "started", "task": task, "round": 1, "kind": "train"}


def released(size: int, task: str = "t1") -> Report:
    return {"type": "released", "task": task, "round": 1, "kind": "train", "payload_bytes": size}


def declare(size: int, request: str = "push_object", task: str = "t1") -> Report:
    return {"type": "declare", "request": request, "stream_bytes": size, "task": task}


GONE: Report = {"type": "disconnected", "reason": "gone", "hint": "wait"}


def test_a_round_from_start_to_acknowledgement() -> None:
    accounts = folded(
        {"type": "connected", "node": 12345},
        started(),
        released(1000),
        declare(300, "pull", ""),
        declare(1200),
        {"type": "acknowledged", "task": "t1"},
    )
    task = accounts.task("t1")
    assert task is not None
    assert (task.state, task.kind, task.started, task.finished) == ("acknowledged", "train", 1.0, 2.0)
    assert (accounts.released, accounts.released_bytes, accounts.acknowledged) == (1, 1000, 1)
    assert accounts.declared_bytes == 1500
    assert accounts.federation.connected
    assert accounts.federation.node == "12345"
    assert reconcile(1500, accounts).bytes == 0


def test_bytes_that_were_not_declared_are_unaccounted_to_the_byte() -> None:
    accounts = folded(started(), released(1000), declare(1200))
    assert reconcile(1200 + 23, accounts).bytes == 23
    assert reconcile(1200 + 23, accounts).undeclared == 23
    assert reconcile(1200, accounts).bytes == 0  # the control


def test_declared_but_unsent_is_never_negative() -> None:
    found = reconcile(100, folded(declare(1000, "pull", "")))
    assert (found.bytes, found.unsent) == (0, 900)


def test_the_baseline_is_what_the_kernel_counted_before_us() -> None:
    accounts = folded(declare(10, "pull", ""), start=Accounts(baseline=5000))
    assert reconcile(5010, accounts).bytes == 0
    assert reconcile(5033, accounts).bytes == 23


@pytest.mark.parametrize(
    ("payload", "pushed", "surplus"),
    [
        (100_000, 125_000 + OVERHEAD_BYTES, 0),
        (100_000, 125_000 + OVERHEAD_BYTES + 23, 23),
        (0, OVERHEAD_BYTES, 0),
        (0, OVERHEAD_BYTES + 23, 23),
    ],
)
def test_pushes_are_bounded_by_the_release(payload: int, pushed: int, surplus: int) -> None:
    accounts = folded(started(), released(payload), declare(pushed))
    found = reconcile(pushed, accounts)
    assert found.bytes == surplus
    assert [entry.bytes for entry in found.surplus] == [surplus] * bool(surplus)


def test_a_push_for_a_task_that_was_never_released_has_room_for_a_refusal_only() -> None:
    refused = {"type": "refused", "task": "t1", "round": 1, "code": "timeout"}
    accounts = folded(started(), refused, declare(OVERHEAD_BYTES + 1))
    assert reconcile(OVERHEAD_BYTES + 1, accounts).surplus[0].reason == "nothing_released"
    assert accounts.refused == {"timeout": 1}


def test_a_push_that_names_no_task_is_unaccounted() -> None:
    found = reconcile(23, folded(declare(23, "push", "")))
    assert (found.bytes, found.surplus[0].reason) == (23, "push_without_task")


def test_pulls_are_not_bounded_by_a_release() -> None:
    assert reconcile(10**9, folded(declare(10**9, "pull_object"))).bytes == 0


def test_a_broken_link_allows_the_update_once_more() -> None:
    first = declare(100_000)
    accounts = folded(started(), released(100_000), first, GONE, first)
    assert reconcile(200_000, accounts).bytes == 0
    # But failing to connect again and again allows nothing: nothing was sent in between.
    idle = folded(started(), released(100_000), first, GONE, GONE, GONE, GONE, declare(400_000))
    assert reconcile(500_000, idle).bytes == 500_000 - 2 * (125_000 + OVERHEAD_BYTES)


def test_the_death_of_the_gateway_counts_as_a_broken_link() -> None:
    accounts = folded(
        {"type": "role_up", "role": "gateway"},
        {"type": "connected", "node": 1},
        started(),
        released(100_000),
        declare(120_000),
        {"type": "role_down", "role": "gateway"},
        {"type": "role_up", "role": "gateway"},
        declare(120_000),
    )
    assert accounts.roles["gateway"] == RoleState(up=True, starts=2)
    assert accounts.roles["gateway"].restarts == 1
    assert not accounts.federation.connected
    assert reconcile(240_000, accounts).bytes == 0


def test_unsent_bytes_are_taken_back() -> None:
    back = {"type": "unsent", "stream_bytes": 700, "task": "t1"}
    accounts = folded(started(), released(1000), declare(1000), back)
    assert accounts.declared_bytes == 300
    assert accounts.task("t1") == replace(accounts.tasks[-1], pushed_bytes=300)
    assert reconcile(323, accounts).bytes == 23
    # Taking back more than was declared hides nothing.
    assert reconcile(23, folded(declare(10, "pull", ""), {**back, "stream_bytes": 99})).bytes == 23


def test_an_update_of_an_earlier_life_may_still_be_sent() -> None:
    before = {"type": "released_before", "task": "t1", "payload_bytes": 100_000}
    accounts = folded(before, declare(120_000), {"type": "acknowledged", "task": "t1"})
    assert reconcile(120_000, accounts).bytes == 0
    assert (accounts.released, accounts.acknowledged) == (0, 1)
    # The control: without the guard's word from the ledger it is too much.
    assert reconcile(120_000, folded(declare(120_000))).bytes == 120_000 - OVERHEAD_BYTES


def test_the_acknowledgement_of_a_refusal_is_no_success() -> None:
    refused = {"type": "refused", "task": "t1", "round": 1, "code": "timeout"}
    accounts = folded(started(), refused, refused, {"type": "acknowledged", "task": "t1"})
    assert (accounts.acknowledged, accounts.refused) == (0, {"timeout": 1})
    assert accounts.tasks[-1].state == "refused"


def test_a_dropped_task_says_why() -> None:
    accounts = folded(started(), released(10), {"type": "dropped", "task": "t1", "reason": "run_over"})
    assert (accounts.tasks[-1].state, accounts.tasks[-1].code) == ("dropped", "run_over")


@pytest.mark.parametrize(
    "report",
    [
        declare(-1),
        declare(True),
        {**declare(1), "stream_bytes": 1.5},
        {**declare(1), "stream_bytes": "1"},
        {**declare(1), "request": "a b"},
        {**declare(1), "task": None},
        {**declare(1), "task": "x" * 129},
        {"type": "unsent", "stream_bytes": -5, "task": ""},
        {"type": "dropped", "task": "t1", "reason": "a b"},
        {"type": "released_before", "task": "t1"},
        {"type": "declare"},
        {"type": "released", "task": "t1", "payload_bytes": -5},
        {"type": "released", "payload_bytes": 5},
        {"type": "refused", "task": "t1", "code": "no such\ncode"},
        {"type": "disconnected", "reason": "gone", "hint": 5},
        {"type": "connected", "node": [1]},
        {"type": "accounts", "tasks": [{"no": "task"}]},
    ],
)
def test_a_malformed_report_is_counted_and_changes_nothing(report: Report) -> None:
    before = folded(started(), released(10), declare(20))
    assert fold(before, report, 9.0) == replace(before, malformed=1)


@pytest.mark.parametrize("report", [{}, {"type": "beat"}, {"type": ["declare"]}, {"type": None}])
def test_reports_of_others_change_nothing(report: Report) -> None:
    before = folded(started())
    assert fold(before, report, 9.0) is before


def test_releasing_twice_counts_once() -> None:
    accounts = folded(
        started(), released(10), released(30), {"type": "acknowledged", "task": "t1"}, released(20)
    )
    assert (accounts.released, accounts.released_bytes) == (1, 10)
    task = accounts.task("t1")
    assert task is not None
    assert (task.state, task.payload_bytes) == ("acknowledged", 30)


def test_only_so_many_tasks_are_kept_but_their_surplus_stays() -> None:
    over = declare(OVERHEAD_BYTES + 23, "push", "old")
    many = [started(f"t{i}") for i in range(TASKS_KEPT + 5)]
    accounts = folded(over, *many)
    assert len(accounts.tasks) == TASKS_KEPT
    assert accounts.task("old") is None
    assert reconcile(0, accounts).bytes == 23


def test_codes_cannot_grow_without_bound() -> None:
    made_up = [{"type": "refused", "task": f"t{i}", "code": f"code{i}"} for i in range(TASKS_KEPT + 5)]
    accounts = folded(*made_up)
    assert len(accounts.refused) == TASKS_KEPT
    assert accounts.malformed == 5


def test_a_hint_is_one_printable_line() -> None:
    accounts = folded({"type": "disconnected", "reason": "gone", "hint": "a\x1b[31m\nb" + "c" * 500})
    assert accounts.federation.hint.startswith("a[31mb")
    assert len(accounts.federation.hint) <= 200


SIZES = st.integers(min_value=0, max_value=10**7)
WORDS = st.sampled_from(["t1", "t2", "t3"])
REPORTS = st.one_of(
    st.builds(started, WORDS),
    st.builds(released, SIZES, WORDS),
    st.builds(declare, SIZES, st.sampled_from(["push", "push_object", "pull", "poll"]), WORDS),
    st.just(GONE),
    st.builds(lambda task: {"type": "dropped", "task": task, "reason": "run_over"}, WORDS),
    st.builds(lambda size, task: {**released(size, task), "type": "released_before"}, SIZES, WORDS),
    st.builds(lambda task: {"type": "acknowledged", "task": task}, WORDS),
    st.builds(lambda task: {"type": "refused", "task": task, "code": "timeout"}, WORDS),
    st.builds(lambda up: {"type": up, "role": "gateway"}, st.sampled_from(["role_up", "role_down"])),
)
JUNK = st.dictionaries(
    st.sampled_from(["type", "task", "round", "stream_bytes", "request", "payload_bytes", "code", "role"]),
    st.one_of(
        st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
        st.sampled_from(["declare", "unsent", "released", "refused", "disconnected", "accounts", "push"]),
    ),
)  # fmt: skip


@given(st.lists(REPORTS, max_size=30), SIZES)
def test_what_leaves_in_secret_is_always_found(reports: list[Report], secret: int) -> None:
    accounts = folded(*reports)
    honest = reconcile(accounts.declared_bytes, accounts)
    assert honest.undeclared == 0
    assert reconcile(accounts.declared_bytes + secret, accounts).bytes == honest.bytes + secret


@given(st.lists(REPORTS, max_size=30))
def test_sums_never_fall(reports: list[Report]) -> None:
    before = Accounts()
    for report in reports:
        after = fold(before, report, 0.0)
        for name in ("declared_bytes", "released", "released_bytes", "acknowledged", "malformed"):
            assert getattr(after, name) >= getattr(before, name)
        before = after


@given(st.lists(JUNK, max_size=10))
def test_junk_never_raises_and_never_hides_bytes(reports: list[Report]) -> None:
    accounts = folded(*reports)
    assert reconcile(accounts.declared_bytes + 23, accounts).undeclared == 23
    assert reconcile(0, accounts).bytes >= 0


@given(st.lists(REPORTS, max_size=30))
def test_accounts_survive_the_way_to_another_process(reports: list[Report]) -> None:
    accounts = folded(*reports)
    text = json.dumps(to_report(accounts))
    assert len(text) < 65536
    assert fold(Accounts(baseline=7), json.loads(text), 0.0) == accounts


LEVELS = st.lists(st.tuples(st.integers(0, 1000), st.floats(0.1, 2.0)), max_size=40)


@given(LEVELS)
def test_settling_only_grows_and_never_beyond_what_was_seen(levels: list[tuple[int, float]]) -> None:
    standing, now = Standing(), 0.0
    for level, step in levels:
        now += step
        after = settle(standing, level, now)
        assert after.confirmed >= standing.confirmed
        assert after.confirmed <= max(standing.confirmed, level)
        standing = after


@given(st.integers(1, 1000), st.floats(0.1, 2.0))
def test_what_stands_is_confirmed_and_what_passes_is_not(level: int, step: float) -> None:
    standing, passing, now = Standing(), Standing(), 0.0
    for look in range(200):
        now += step
        standing = settle(standing, level, now)
        passing = settle(passing, level if look % 2 else 0, now)
    assert standing.confirmed == level
    assert passing.confirmed == 0


def test_settling_takes_the_grace_and_no_less() -> None:
    standing = settle(Standing(), 23, 0.0, grace=5.0)
    standing = settle(standing, 30, 4.9, grace=5.0)
    assert standing.confirmed == 0
    standing = settle(standing, 25, 5.0, grace=5.0)
    assert standing.confirmed == 23
