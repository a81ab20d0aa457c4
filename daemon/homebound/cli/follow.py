# SPDX-License-Identifier: Apache-2.0
"""What changed between two status documents: new refused attempts, and how fast the roles send.

Pure. For `homebound events` and `homebound top`. May import: view.
"""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homebound.view import Table, duration, moment, size, status

Document = Mapping[str, Any]
Event = Mapping[str, Any]
SHOWN_EVENTS = 8
# The table of roles takes up to so many columns; below it only these of its cells are shown.
WIDE = 92
NARROW = (0, 1, 2, 3, 6)


@dataclass(frozen=True)
class Fresh:
    """Attempts that the document before did not have; ``gap``: there were more than a document keeps."""

    events: tuple[Event, ...]
    gap: bool = False


def fresh(before: Document | None, after: Document) -> Fresh:
    """What is new in ``after``. All of it if there is nothing before, or if the daemon was started again."""
    events = tuple(after["denied_recent"])
    if before is None or before["since"] != after["since"]:
        return Fresh(events)
    if not before["denied_recent"]:
        return Fresh(events)
    newest = before["denied_recent"][-1]
    for place in range(len(events) - 1, -1, -1):
        if events[place] == newest:
            return Fresh(events[place + 1 :])
    return Fresh(events, gap=True)


def line(event: Event) -> str:
    """One attempt as a line, under 80 columns but for a long address."""
    time = dt.datetime.fromtimestamp(event["time"], tz=dt.UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    result = int(event["result"])
    name = errno.errorcode.get(-result, str(result)) if result < 0 else "refused"
    words = [time, f"{event['role']:<8}", f"{event['rule']:<15}", f"{name:<6}", f"process {event['pid']}"]
    if event["address"]:
        words.append(f"to {_place(event['address'], event['port'])}")
    return " ".join(words)


def top(before: Document | None, after: Document, now: float, columns: int = 0) -> list[Table]:
    """Roles with speeds since the document before, the newest attempts, then the other tables of a status.

    What changes stands first: a low terminal shows the beginning. ``columns`` is the terminal's width; a
    narrow one has fewer columns, whole ones. 0 is as wide as need be.
    """
    seconds = now - before["asked"] if before is not None and before["since"] == after["since"] else 0.0
    facts, _, *others = status(after, now)
    roles = _roles(before["roles"] if before is not None and seconds > 0 else {}, after["roles"], seconds)
    if 0 < columns < WIDE:
        roles = Table(roles.title, _picked(roles.columns), tuple(_picked(row) for row in roles.rows))
    rows = tuple(
        (moment(event["time"])[11:19], event["role"], event["rule"], str(event["pid"]))
        for event in reversed(after["denied_recent"][-SHOWN_EVENTS:])
    )
    attempts = Table("last refused attempts", ("time", "role", "rule", ">process"), rows)
    return [roles, attempts, facts, *others]


def _picked(cells: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(cells[place] for place in NARROW)


def _roles(before: Mapping[str, Document], after: Mapping[str, Document], seconds: float) -> Table:
    columns = ("role", "state", ">sent", ">now", ">received", ">now", ">denied", ">memory", ">cpu", ">now")
    rows = tuple(
        (
            name, str(role["state"]),
            size(role["transmit_bytes"]), _speed(before.get(name), role, "transmit_bytes", seconds),
            size(role["receive_bytes"]), _speed(before.get(name), role, "receive_bytes", seconds),
            str(role["denied"]), size(role["memory_bytes"]), duration(role["cpu_seconds"]),
            _share(before.get(name), role, seconds),
        )
        for name, role in after.items()
    )  # fmt: skip
    return Table("roles", columns, rows)


def _grown(before: Document | None, after: Document, key: str) -> float | None:
    if before is None or before[key] is None or after[key] is None:
        return None
    return max(0.0, float(after[key]) - float(before[key]))


def _speed(before: Document | None, after: Document, key: str, seconds: float) -> str:
    grown = _grown(before, after, key)
    return "-" if grown is None else f"{size(grown / seconds)}/s"


def _share(before: Document | None, after: Document, seconds: float) -> str:
    grown = _grown(before, after, "cpu_seconds")
    return "-" if grown is None else f"{100 * grown / seconds:.0f} %"


def _place(address: Any, port: Any) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
