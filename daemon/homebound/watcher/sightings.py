# SPDX-License-Identifier: Apache-2.0
"""What is new since the last look: from the kernel's counters and the accounts to observations for policy.

Counters only grow and are never lost, so nothing escapes between two looks. What they held at the start
belongs to whoever ran before. Reads counters, decides nothing.
May import: books.accounts, events, watcher.policy (its observations), watcher.readings.
"""

from __future__ import annotations

from dataclasses import dataclass

from homebound.books.accounts import GRACE_SECONDS, Accounts, Standing, Unaccounted, reconcile, settle
from homebound.events import Role, Rule
from homebound.watcher.policy import SEALED, Attempted, Denied, Observation, Sent, Unexplained
from homebound.watcher.readings import Counters, sent_bytes, stream_bytes

# How long the supervisor may leave a question without an answer: the start of a role takes it up to 20 s.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Seen:
    """The counters at one look; ``stream`` is the gateway's TCP payload, ``sent`` what either meter saw."""

    denied: dict[tuple[Role, Rule], int]
    attempts: dict[tuple[Role, Rule], int]
    sent: dict[Role, int]
    stream: int


def read(counters: Counters, mode: str) -> Seen:
    """Look. Raises OSError when the maps cannot be read."""
    traffic = counters.traffic()
    first, second = sent_bytes(traffic, mode), sent_bytes(counters.uplink(), mode)
    return Seen(
        denied=dict(counters.denied()),
        attempts=dict(counters.attempts()),
        sent={role: max(first[role], second[role]) for role in first},
        stream=stream_bytes(traffic, Role.GATEWAY, mode),
    )


class Sightings:
    """Remembers the last look. ``unaccounted``: what was found last; ``standing``: what was confirmed of it;
    ``asked``: number of the question that waits for an answer, 0 for none.

    A count is compared with what was declared before it was read. Declarations come by way of the supervisor,
    so a look that finds more bytes than it has heard of asks for an answer, which comes behind all that was
    declared by then. What hides is what is declared, and not sent yet, while an answer is on its way. A
    supervisor that answers nothing for long is waited for no more: each look is compared with what was heard
    by the next.
    """

    def __init__(self, counters: Counters, mode: str) -> None:
        self._counters = counters
        self._mode = mode
        self._last = read(counters, mode)
        self.first = self._last
        self.standing = Standing()
        self.unaccounted = Unaccounted(0, 0, 0, ())
        self.asked = 0
        self._questions = 0
        self._stream = 0
        self._unanswered: float | None = None

    def is_balanced(self, now: float) -> bool:
        """Whether all is explained but what was confirmed and told before, as far as is known lately."""
        is_known = self._unanswered is None or now - self._unanswered < GRACE_SECONDS
        return is_known and self.unaccounted.bytes <= self.standing.confirmed

    def look(self, accounts: Accounts, now: float) -> list[Observation]:
        """Everything new, worst first. ``now``: seconds of a clock that never goes back."""
        before, after = self._last, read(self._counters, self._mode)
        self._last = after
        found: list[Observation] = [
            Sent(role, after.sent[role] - before.sent[role])
            for role in sorted(SEALED)
            if after.sent[role] > before.sent[role]
        ]
        if self._unanswered is not None and now - self._unanswered >= PATIENCE_SECONDS:
            found += self._reckon(accounts, now)
        self._compare(after.stream, accounts, now)
        found += [
            Denied(role, rule, count - before.denied.get((role, rule), 0))
            for (role, rule), count in after.denied.items()
            if count > before.denied.get((role, rule), 0)
        ]
        found += [
            Attempted(role, rule, count - before.attempts.get((role, rule), 0))
            for (role, rule), count in after.attempts.items()
            if count > before.attempts.get((role, rule), 0)
        ]
        return found

    def answered(self, number: object, accounts: Accounts, now: float) -> list[Observation]:
        """All that was declared before question ``number`` is in the accounts now. A late answer is none."""
        if not self.asked or number != self.asked:
            return []
        self._unanswered = None
        return self._reckon(accounts, now)

    def _compare(self, stream: int, accounts: Accounts, now: float) -> None:
        """Nothing beyond what was heard by now is good news at once; more may only be ahead of its word."""
        found = reconcile(stream, accounts)
        if found.bytes <= self.standing.confirmed:
            self.unaccounted = found
            self.standing = settle(self.standing, found.bytes, now)
            self.asked, self._unanswered = 0, None
            return
        if self.asked:
            return
        self._questions += 1
        self.asked, self._stream = self._questions, stream
        self._unanswered = now if self._unanswered is None else self._unanswered

    def _reckon(self, accounts: Accounts, now: float) -> list[Observation]:
        """Settle the count that was asked about, if any."""
        if not self.asked:
            return []
        self.asked = 0
        self.unaccounted = reconcile(self._stream, accounts)
        before, self.standing = self.standing, settle(self.standing, self.unaccounted.bytes, now)
        new = self.standing.confirmed - before.confirmed
        return [Unexplained(new)] if new > 0 else []
