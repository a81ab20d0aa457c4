# SPDX-License-Identifier: Apache-2.0
"""The gateway's sockets by the kernel's list, held against the one endpoint that it may reach.

The walls let no other connection be made; this looks whether there is one all the same: older than the walls,
in mode observe, or past a program that somebody took off. Each such socket is told once.
May import: kernel.socketdiag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from homebound.kernel.socketdiag import Found, sockets

CONNECTED = "established"
# A TCP socket that has no other end (yet, or any more) reaches nobody.
ALONE = frozenset({"closed", "bound"})


@dataclass
class GatewaySockets:
    """``look`` lists the sockets now. ``allowed``: every endpoint that was the gateway's in this life."""

    look: Callable[[], list[Found]]
    allowed: set[tuple[str, int]] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)
    unknown: tuple[Found, ...] = ()
    trouble: str = ""

    def allow(self, address: str, port: int) -> None:
        """From now on, a connection there is the gateway's own."""
        if address:
            self.allowed.add((address, port))

    def report(self) -> dict[str, Any]:
        """Look, and what the watcher is told: connected ones, others, and how many are new and unknown."""
        before = self.unknown
        try:
            found = self.look()
        except OSError as error:
            self.trouble, self.states, self.unknown = f"the kernel does not list sockets: {error}", {}, ()
            return {"type": "sockets", "known": False}
        self.trouble, self.states = "", dict(Counter(entry.state for entry in found))
        self.unknown = tuple(entry for entry in found if not self._is_own(entry))
        connected = self.states.get(CONNECTED, 0)
        new = len([entry for entry in self.unknown if entry not in before])
        others = len(found) - connected
        return {"type": "sockets", "known": True, "connected": connected, "other": others, "new_unknown": new}

    def document(self) -> dict[str, Any]:
        """For the status, as of the last look."""
        unknown = [f"{entry.protocol} {entry.state} {entry.address} {entry.port}" for entry in self.unknown]
        return {"states": self.states, "unknown": unknown, "trouble": self.trouble}

    def _is_own(self, entry: Found) -> bool:
        if entry.protocol != "tcp":
            return False
        return entry.state in ALONE or (entry.address, entry.port) in self.allowed


def of_cgroup(cgroup: int) -> GatewaySockets:
    """Those of the cgroup with that id."""
    return GatewaySockets(lambda: sockets(cgroup))
