# SPDX-License-Identifier: Apache-2.0
"""sightings.py: each look finds what is new, once, and nothing that was there before."""

from __future__ import annotations

import pytest

from homebound.books.accounts import GRACE_SECONDS, Accounts, fold
from homebound.events import Role, Rule, Verdict
from homebound.watcher.policy import Denied, Sent, Unexplained
from homebound.watcher.sightings import PATIENCE_SECONDS, Sightings
from unit.watcher.rig import MemoryCounters, tx


def declared(size: int) -> Accounts:
    return fold(Accounts(), {"type": "declare", "request": "pull", "stream_bytes": size, "task": ""}, 0.0)


def watch(sightings: Sightings, accounts: Accounts, first: float) -> list[list[object]]:
    """Twenty looks, one a second, each with its answer."""
    return [
        [*sightings.look(accounts, now), *sightings.answered(sightings.asked, accounts, now)]
        for now in (first + second for second in range(20))
    ]


def test_what_was_there_before_is_not_ours() -> None:
    counters = MemoryCounters()
    counters.deny(Role.TRAINER, Rule.IO_URING, 23)
    counters.add(tx(Role.TRAINER), 100)
    assert Sightings(counters, "enforce").look(Accounts(), 0.0) == []


def test_each_attempt_is_found_once() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.deny(Role.TRAINER, Rule.IO_URING, 23)
    counters.deny(Role.CANARY, Rule.CONNECT4)
    assert sightings.look(Accounts(), 0.0) == [
        Denied(Role.TRAINER, Rule.IO_URING, 23),
        Denied(Role.CANARY, Rule.CONNECT4, 1),
    ]
    assert sightings.look(Accounts(), 1.0) == []


def test_a_byte_of_a_sealed_role_comes_first() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.deny(Role.GUARD, Rule.EGRESS)
    counters.add(tx(Role.GUARD, Verdict.DENIED), 60)
    assert sightings.look(Accounts(), 0.0) == [Denied(Role.GUARD, Rule.EGRESS, 1)]
    counters.add(tx(Role.GUARD), 61)
    assert sightings.look(Accounts(), 1.0) == [Sent(Role.GUARD, 61)]


def test_gateway_and_watcher_may_send() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.add(tx(Role.GATEWAY), 61)
    counters.add(tx(Role.WATCHER), 61)
    assert sightings.look(Accounts(), 0.0) == []


def test_undeclared_bytes_are_found_after_the_grace_and_once() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.add(tx(Role.GATEWAY), 200, 123)
    found = watch(sightings, declared(100), 0.0)
    assert [entry for look in found for entry in look] == [Unexplained(23)]
    assert sightings.standing.confirmed == 23
    first = next(second for second, look in enumerate(found) if look)
    assert first >= GRACE_SECONDS
    counters.add(tx(Role.GATEWAY), 50, 5)
    found = watch(sightings, declared(100), 20.0)
    assert [entry for look in found for entry in look] == [Unexplained(5)]


def test_declared_bytes_are_never_found() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    for second in range(30):
        # The kernel has counted what is declared only by the next look.
        counters.add(tx(Role.GATEWAY), 150, 100)
        assert sightings.look(declared(100 * second), float(second)) == []


@pytest.mark.parametrize("late", [0, 1])
def test_under_steady_polling_undeclared_bytes_are_found_to_the_byte(late: int) -> None:
    """The gateway polls all the time; what is declared after a count was read hides nothing of that count."""
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.add(tx(Role.GATEWAY), 100, 23)
    found = []
    for second in range(30):
        counters.add(tx(Role.GATEWAY), 150, 100)
        # The word for the newest request may be on its way at the look; it is there with the answer.
        found += sightings.look(declared(100 * (second + 1 - late)), float(second))
        assert sightings.asked or second > GRACE_SECONDS
        found += sightings.answered(sightings.asked, declared(100 * (second + 1)), second + 0.001)
    assert found == [Unexplained(23)]


def test_without_answers_the_look_before_is_compared() -> None:
    """After some patience. A bound, not an error: what was declared between two looks may hide as much."""
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.add(tx(Role.GATEWAY), 100, 123)
    found = []
    for second in range(60):
        counters.add(tx(Role.GATEWAY), 150, 100)
        new = sightings.look(declared(100 * second), float(second))
        assert not new or second >= PATIENCE_SECONDS + GRACE_SECONDS
        found += new
        found += sightings.answered(sightings.asked - 1, declared(0), float(second))  # too late: passed over
        assert sightings.is_balanced(float(second)) == (second < GRACE_SECONDS)
    assert found == [Unexplained(123)]


def test_a_supervisor_that_is_busy_is_waited_for() -> None:
    """It tells of nothing for a while, and answers the first question when it is back: nothing is found."""
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    asked = set()
    for second in range(20):
        counters.add(tx(Role.GATEWAY), 150, 100)
        assert sightings.look(declared(0), float(second)) == []
        asked.add(sightings.asked)
    assert asked == {1}
    assert not sightings.is_balanced(19.0)
    assert sightings.answered(1, declared(2000), 20.0) == []
    assert sightings.look(declared(2000), 20.5) == []
    assert sightings.is_balanced(20.5)
    assert sightings.standing.confirmed == 0


def test_nothing_is_asked_while_all_is_declared() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.add(tx(Role.GATEWAY), 150, 100)
    assert sightings.look(declared(100), 0.0) == []
    assert sightings.asked == 0
    assert sightings.answered(0, declared(0), 1.0) == []


def test_a_kernel_that_does_not_answer_is_an_error() -> None:
    counters = MemoryCounters()
    sightings = Sightings(counters, "enforce")
    counters.broken = True
    with pytest.raises(OSError, match="descriptor"):
        sightings.look(Accounts(), 0.0)
