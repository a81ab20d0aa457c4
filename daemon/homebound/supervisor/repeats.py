# SPDX-License-Identifier: Apache-2.0
"""Verdicts that repeat, as few lines: the first at once, then one a minute that says how many more.

Whoever keeps trying must not fill the journal, and must not be able to write by it either: what is counted
is counted by metrics and status, here is only when a line is due. Pure: no clock, no journal.
May import: nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A verdict of the same role, rule and action is one line in so many seconds.
SUMMARY_SECONDS = 60.0
# Roles times rules are fewer. What a watcher that lies makes up beyond that shares one line.
MOST_KINDS = 256

Verdict = Mapping[str, Any]
Kind = tuple[str, str, str, bool]
REST: Kind = ("", "", "", False)


@dataclass
class Tally:
    """One kind of verdict: when its last line was, and what came since."""

    written: float
    last: Verdict
    more: int = 0


@dataclass(frozen=True)
class Summary:
    """A line that is due: the last verdict, how many ``more`` attempts or bytes in how many ``seconds``."""

    verdict: Verdict
    more: int
    seconds: float


@dataclass
class Repeats:
    """``tallies``: those whose last line is not yet a minute old, or that have something to say."""

    tallies: dict[Kind, Tally] = field(default_factory=dict)

    def is_first(self, verdict: Verdict, now: float) -> bool:
        """Take a verdict; whether it is to be written at once. If not, due() has it later."""
        kind = (
            str(verdict.get("role")),
            str(verdict.get("rule")),
            str(verdict.get("action")),
            verdict.get("enforced") is True,
        )
        if kind not in self.tallies and len(self.tallies) >= MOST_KINDS:
            kind = REST
        tally = self.tallies.get(kind)
        if tally is None:
            self.tallies[kind] = Tally(now, verdict)
            return True
        new = verdict.get("new")
        tally.more += new if isinstance(new, int) and new > 0 else 1
        tally.last = verdict
        return False

    def due(self, now: float, *, all_of_them: bool = False) -> list[Summary]:
        """The summaries to write now. A kind that was quiet for a minute is forgotten: its next is a
        first."""
        found = []
        for kind, tally in list(self.tallies.items()):
            seconds = now - tally.written
            if seconds < SUMMARY_SECONDS and not all_of_them:
                continue
            if tally.more:
                found.append(Summary(tally.last, tally.more, seconds))
                self.tallies[kind] = Tally(now, tally.last)
            else:
                del self.tallies[kind]
        return found
