# SPDX-License-Identifier: Apache-2.0
"""The books against the kernel: a line in the journal every minute and at the end, whatever it finds.

The watcher compares twice a second and raises the violation (watcher/sightings.py); this is what a person or
a log that is kept elsewhere can go by later. May import: events, journal, supervisor.status,
supervisor.daemon (its type).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homebound import journal
from homebound.events import Role
from homebound.supervisor import status

if TYPE_CHECKING:
    from homebound.supervisor.daemon import Supervisor

EVERY_SECONDS = 60.0


def every_minute(daemon: Supervisor) -> None:
    """Now, and again in a minute."""
    daemon.loop.after("reconcile", EVERY_SECONDS, lambda: every_minute(daemon))
    _note(daemon)


def at_the_end(daemon: Supervisor) -> None:
    """For the last time: the gateway is gone, and its last word was heard.

    What the watcher confirmed before is in the journal already; it waits for seconds, which are not left.
    """
    found = _note(daemon, last=True)
    known = daemon.life.violations.get(("unaccounted", Role.GATEWAY.label))
    left = found - (known.count if known else 0)
    if left > 0:
        journal.verdict({"role": Role.GATEWAY.label, "rule": "unaccounted", "count": left})


def _note(daemon: Supervisor, last: bool = False) -> int:
    """Write down both sides and what neither explains; that last number."""
    if daemon.walls is None:
        return 0
    # Bytes are declared before they leave: count first, then hear the gateway.
    sent = status.gateway_stream(daemon)
    daemon.listen(Role.GATEWAY)
    found = status.unaccounted(daemon, sent)
    books = daemon.accounts
    journal.reconciled(
        last=last,
        sent=sent - books.baseline,
        declared=books.declared_bytes,
        released=books.released_bytes,
        unexplained=found,
    )
    return found
