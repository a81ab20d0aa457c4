# SPDX-License-Identifier: Apache-2.0
"""What is new since the last look: from the kernel's counters and the accounts to observations for policy.

Counters only grow and are never lost, so nothing escapes between two looks. What they held at the start
belongs to whoever ran before. Reads counters, decides nothing.
May import: books.accounts, events, watcher.policy (its observations), watcher.readings.
"""

from __future__ import annotations

from dataclasses import dataclass

from homebound.books.accounts import Accounts, Standing, Unaccounted, reconcile, settle
from homebound.events import Role, Rule
from homebound.watcher.policy import SEALED, Denied, Observation, Sent, Unexplained
from homebound.watcher.readings import Counters, sent_bytes, stream_bytes


@dataclass(frozen=True)
class Seen:
    """The counters at one look; ``stream`` is the gateway's TCP payload."""

    denied: dict[tuple[Role, Rule], int]
    sent: dict[Role, int]
    stream: int


def read(counters: Counters, mode: str) -> Seen:
    """Look. Raises OSError when the maps cannot be read."""
    traffic = counters.traffic()
    return Seen(
        denied=dict(counters.denied()),
        sent=sent_bytes(traffic, mode),
        stream=stream_bytes(traffic, Role.GATEWAY, mode),
    )


class Sightings:
    """Remembers the last look. ``unaccounted``: what it found; ``standing``: what was confirmed of it."""

    def __init__(self, counters: Counters, mode: str) -> None:
        self._counters = counters
        self._mode = mode
        self._last = read(counters, mode)
        self.first = self._last
        self.standing = Standing()
        self.unaccounted = Unaccounted(0, 0, 0, ())

    def look(self, accounts: Accounts, now: float) -> list[Observation]:
        """Everything new, worst first. ``now``: seconds of a clock that never goes back."""
        before, after = self._last, read(self._counters, self._mode)
        self._last = after
        found: list[Observation] = [
            Sent(role, after.sent[role] - before.sent[role])
            for role in sorted(SEALED)
            if after.sent[role] > before.sent[role]
        ]
        # The count of the look before against the accounts of now: a declaration that was still on its way
        # then has come since, so the difference is no accident of timing.
        self.unaccounted = reconcile(before.stream, accounts)
        confirmed = settle(self.standing, self.unaccounted.bytes, now)
        if confirmed.confirmed > self.standing.confirmed:
            found.append(Unexplained(confirmed.confirmed - self.standing.confirmed))
        self.standing = confirmed
        found += [
            Denied(role, rule, count - before.denied.get((role, rule), 0))
            for (role, rule), count in after.denied.items()
            if count > before.denied.get((role, rule), 0)
        ]
        return found
