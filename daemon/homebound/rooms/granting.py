# SPDX-License-Identifier: Apache-2.0
"""The supervisor's half of the gateway's credit: once more for a release whose delivery broke off, and back
what is left over when all is delivered.

The gateway's word leads to credit here, so it is bounded: a release is paid for again a few times and no
more, however often the gateway says that its link broke. May import: books.accounts, events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from homebound.books import accounts
from homebound.books.accounts import Accounts, Task
from homebound.events import Credit

# Measured with flwr 1.42: a poll is 860 bytes of stream, a heartbeat every 20 seconds as much; connecting
# takes 9 kB, a task and its answer 16 kB besides the payload and its arrays (accounts.ARRAY_BYTES). The quick
# polls after a task are as many however long the pause between slow ones is: with a task every half minute
# they and the heartbeats take 0.8 kB a second beyond what the grant for a round pays. Room for a first model
# of two thousand arrays, which is fetched before anything is granted for it.
POLL_BYTES = 2400
QUICK_BYTES = 1200
BURST_BYTES = 4 << 20
# How often a release is paid for again before only the allowance is left.
AGAIN = 3
# What may stay when nothing is outstanding: the polls of the next minute, and the fetching of a model of as
# many arrays as the last one.
LEFTOVER_BYTES = 128 * 1024


def rate(poll_seconds: float) -> int:
    """The allowance in bytes a second for a gateway that asks this often."""
    return min((1 << 32) - 2, max(QUICK_BYTES, math.ceil(POLL_BYTES / poll_seconds)))


class Granting:
    """``grant`` adds bytes to the supervisor's cell, ``credit`` reads all cells."""

    def __init__(self, grant: Callable[[int], None], credit: Callable[[], Mapping[Credit, int]]) -> None:
        self._grant = grant
        self._credit = credit
        self._again: dict[str, int] = {}
        # What the guard had granted when it last spoke: a newer grant is for a release not yet heard of.
        self._told = 0
        self._arrays = 0
        self._inherited = False

    def follow(self, report: Mapping[str, Any], before: Accounts, after: Accounts) -> None:
        """Act on what one report changed. Only the guard says "released"."""
        told = report.get("granted") if report.get("type") == "released" else None
        if type(told) is int:
            self._told = max(self._told, told)
            released = after.task(str(report.get("task")))
            self._arrays = released.arrays if released else 0
        for task in after.tasks:
            known = before.task(task.task)
            if known is not None and task.attempts > known.attempts:
                self._pay_again(task)
        if report.get("type") in ("acknowledged", "dropped"):
            self._take_back(after)

    def inherit(self, waiting: Iterable[str], books: Accounts) -> None:
        """Pay for what earlier lives of the daemon released and did not deliver; once.

        ``waiting``: tasks whose answers lie in the outbox. What was not released is not in the books.
        """
        if self._inherited:
            return
        self._inherited = True
        kept = set(waiting)
        for task in books.tasks:
            if task.state == "released" and task.task in kept:
                self._grant(task.wire_bytes)

    def _pay_again(self, task: Task) -> None:
        count = self._again.get(task.task, 0)
        if task.state == "released" and count < AGAIN:
            self._again[task.task] = count + 1
            self._grant(task.wire_bytes)

    def _take_back(self, books: Accounts) -> None:
        """Nothing that was granted for a release is kept for another purpose."""
        if any(task.state == "released" for task in books.tasks):
            return
        self._again.clear()
        cells = self._credit()
        left = self._told + _signed(cells[Credit.SUPERVISOR]) - cells[Credit.USED]
        kept = LEFTOVER_BYTES + self._arrays * accounts.FETCH_BYTES
        if left > kept:
            self._grant(kept - left)


def _signed(word: int) -> int:
    """A cell that may have fallen below 0."""
    return word - (1 << 64) if word >= 1 << 63 else word
