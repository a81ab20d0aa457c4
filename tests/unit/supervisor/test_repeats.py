# SPDX-License-Identifier: Apache-2.0
"""Verdicts that repeat: the first is a line at once, the rest is one line a minute, and none is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from homebound.supervisor.repeats import MOST_KINDS, SUMMARY_SECONDS, Repeats, Summary


def verdict(total: int, new: int = 1, rule: str = "socket_stream", role: str = "trainer") -> dict[str, Any]:
    return {"role": role, "rule": rule, "action": "deny", "enforced": True, "new": new, "count": total}


def test_two_a_second_for_an_hour_are_one_line_a_minute() -> None:
    repeats, lines, told = Repeats(), 0, 0
    for number in range(7200):
        now = number / 2
        if repeats.is_first(verdict(number + 1), now):
            lines, told = lines + 1, told + 1
        for summary in repeats.due(now):
            lines, told = lines + 1, told + summary.more
    for summary in repeats.due(3600.0, all_of_them=True):
        lines, told = lines + 1, told + summary.more
    assert told == 7200
    assert lines <= 3600 / SUMMARY_SECONDS + 2


def test_each_kind_has_its_own_first() -> None:
    repeats = Repeats()
    assert repeats.is_first(verdict(1), 0.0)
    assert repeats.is_first(verdict(1, rule="io_uring"), 0.1)
    assert repeats.is_first(verdict(1, role="gateway"), 0.2)
    assert repeats.is_first({**verdict(2), "action": "kill"}, 0.3)
    assert repeats.is_first({**verdict(3), "enforced": False}, 0.4)
    assert not repeats.is_first(verdict(4, new=23), 0.5)
    (summary,) = repeats.due(SUMMARY_SECONDS)
    assert summary == Summary(verdict(4, new=23), 23, SUMMARY_SECONDS)


def test_after_a_quiet_minute_the_next_is_a_first() -> None:
    repeats = Repeats()
    assert repeats.is_first(verdict(1), 0.0)
    assert repeats.due(SUMMARY_SECONDS - 0.1) == []
    assert not repeats.is_first(verdict(2), SUMMARY_SECONDS - 0.1)
    assert [summary.more for summary in repeats.due(SUMMARY_SECONDS)] == [1]
    assert repeats.due(2 * SUMMARY_SECONDS) == []
    assert repeats.is_first(verdict(3), 2 * SUMMARY_SECONDS)


def test_names_that_are_made_up_need_no_more_room() -> None:
    repeats = Repeats()
    firsts = sum(repeats.is_first(verdict(1, rule=f"rule{number}"), 0.0) for number in range(10_000))
    assert firsts == MOST_KINDS + 1
    assert len(repeats.due(SUMMARY_SECONDS)) == 1


@given(
    st.dictionaries(st.sampled_from(["role", "rule", "action", "new"]), st.one_of(st.none(), st.integers()))
)
def test_no_verdict_raises(words: dict[str, Any]) -> None:
    repeats = Repeats()
    assert repeats.is_first(words, 0.0)
    assert not repeats.is_first(words, 1.0)
    assert all(summary.more >= 1 for summary in repeats.due(2.0, all_of_them=True))
