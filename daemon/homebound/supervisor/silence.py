# SPDX-License-Identifier: Apache-2.0
"""For how long the watcher has been silent, and when that is too long.

The promise: a watcher that stands still has its trainer frozen within 5 s of its last word. All else follows
from it. A pause in which the supervisor itself had no processor says nothing about the watcher and counts for
little, so a machine that stood still as a whole ends no training. Imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

PROMISED_SECONDS = 5.0
# How often the supervisor looks, and what freezing and a busy machine may take of the promise besides.
LOOK_SECONDS, FREEZE_SECONDS = 0.5, 0.5
# The last look before the limit may be one look early. The watcher speaks every second, so it has three
# seconds in which it may get no processor.
LIMIT_SECONDS = PROMISED_SECONDS - LOOK_SECONDS - FREEZE_SECONDS
# A look counts for no more than this. A flight of the canary, during which nobody looks, is shorter; whatever
# takes longer keeps the watcher from its processor, too.
LOOK_MOST = 2.0


@dataclass
class Silence:
    """``at``: the last look, in seconds of a clock that never goes back; ``seconds``: silent since."""

    at: float = 0.0
    seconds: float = 0.0

    def broken(self, now: float) -> None:
        """The watcher spoke, or a new one was started."""
        self.at, self.seconds = now, 0.0

    def look(self, now: float) -> float:
        """Seconds of silence by now."""
        self.seconds += min(max(0.0, now - self.at), LOOK_MOST)
        self.at = now
        return self.seconds
