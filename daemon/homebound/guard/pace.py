# SPDX-License-Identifier: Apache-2.0
"""How soon the guard takes the next task. Whoever holds the gateway can make up tasks without end, and each
costs an entry of the ledger, a line in the journal and the supervisor's time. Pure but for its clock.
"""

from __future__ import annotations

from collections.abc import Callable

# Between two tasks, which an honest federation never notices.
TASK_SECONDS = 0.05
# After a task that was refused before the app began; doubles with each in a row.
REFUSED_SECONDS, REFUSED_MOST = 0.25, 5.0


class Pace:
    """``clock`` gives monotonic seconds. ``until``: when the next task is taken."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused = 0
        self.until = clock()

    @property
    def is_due(self) -> bool:
        return self._clock() >= self.until

    def ended(self, began: bool) -> None:
        """A task is over. ``began``: the app had it."""
        self._refused = 0 if began else self._refused + 1
        # A large exponent would overflow a float.
        pause = REFUSED_SECONDS * 2.0 ** min(self._refused - 1, 16) if self._refused else TASK_SECONDS
        self.until = self._clock() + min(pause, REFUSED_MOST)
