# SPDX-License-Identifier: Apache-2.0
"""The guard's pace: a flood of made-up tasks is slowed down, an honest federation is not."""

from __future__ import annotations

import time
from pathlib import Path

from homebound.guard.pace import REFUSED_MOST, REFUSED_SECONDS, TASK_SECONDS, Pace
from unit.guard.rig import EXACT, MODEL, entries, rig


def test_pauses() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])

    def due() -> bool:
        return pace.is_due

    def pause(began: bool) -> float:
        assert due()
        pace.ended(began)
        assert not due()
        found = pace.until - now[0]
        now[0] = pace.until
        return round(found, 6)

    assert [pause(True) for _ in range(3)] == [TASK_SECONDS] * 3
    doubling = [REFUSED_SECONDS * 2**k for k in range(5)]
    assert [pause(False) for _ in range(5)] == [min(value, REFUSED_MOST) for value in doubling]
    assert [pause(False) for _ in range(2000)][-1] == REFUSED_MOST
    assert pause(True) == TASK_SECONDS
    assert pause(False) == REFUSED_SECONDS


def test_a_flood_of_refusals_is_slow(tmp_path: Path) -> None:
    """By the budget, before the app begins. The guard hears the supervisor all the while."""
    with rig(tmp_path, **(EXACT | {"epsilon_limit": 1.0})) as guard:
        began = time.monotonic()
        for number in range(4):
            guard.send_task(MODEL, f"t{number}")
        for number in range(3):
            guard.refusal("budget", f"t{number}")
        assert time.monotonic() - began >= REFUSED_SECONDS * 3
        guard.tell({"type": "stop"})
        guard.process.wait(10)
    assert len(entries(tmp_path)) <= 4
