# SPDX-License-Identifier: Apache-2.0
"""What the demo saw, as one document, and whether that is good. Pure.

May import: leaktest.judge (Outcome).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homebound.leaktest.judge import Outcome

SCHEMA = 1
Status = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """One round over all devices. ``released_bytes``: payload of updates and evaluations."""

    round: int
    accuracy: float
    released_bytes: int


@dataclass(frozen=True)
class Books:
    """One device's bytes at rest: what the kernel counted, what was declared, what the ledger holds."""

    name: str
    kernel_stream_bytes: int
    declared_stream_bytes: int
    unaccounted_bytes: int
    released_bytes: int
    ledger_bytes: int
    ledger_faults: int

    @property
    def balanced(self) -> bool:
        """Equal to the byte, nothing open, and every release in an intact ledger."""
        return (
            self.kernel_stream_bytes == self.declared_stream_bytes
            and self.unaccounted_bytes == 0
            and self.released_bytes == self.ledger_bytes
            and self.ledger_faults == 0
        )


@dataclass(frozen=True)
class Seen:
    """Everything that the verdict rests on."""

    seconds: float
    rounds: Sequence[Round]
    statuses: Mapping[str, Status]
    books: Sequence[Books]
    channels: Sequence[Outcome]

    @property
    def good(self) -> bool:
        """Nothing got out, nothing is unclear, and all bytes are explained."""
        held = all(channel.blocked or channel.control != "passed" for channel in self.channels)
        silent = all(
            status["roles"][role]["transmit_bytes"] == 0
            for status in self.statuses.values()
            for role in ("trainer", "guard")
        )
        return bool(self.channels) and held and silent and all(book.balanced for book in self.books)


def rounds(results: Sequence[Mapping[str, Any]], statuses: Sequence[Status]) -> tuple[Round, ...]:
    """Join what the server measured with what the devices released. Round 0 is the untrained model."""
    found = []
    for line in results:
        number = int(line["round"])
        released = sum(
            task["payload_bytes"]
            for status in statuses
            for task in status["tasks"]
            if task["round"] == number and task["state"] in ("released", "acknowledged")
        )
        if number:
            found.append(Round(number, float(line["accuracy"]), released))
    return tuple(found)


def document(seen: Seen) -> dict[str, Any]:
    """What --json writes."""
    walls: dict[str, bool] = {}
    for status in seen.statuses.values():
        for name, wall in status["walls"].items():
            walls[name] = wall["active"] and walls.get(name, True)
    return {
        "schema": SCHEMA,
        "seconds": round(seen.seconds, 3),
        "final_accuracy": seen.rounds[-1].accuracy if seen.rounds else None,
        "rounds": [vars(entry) for entry in seen.rounds],
        "roles": {
            name: {
                role: {"transmit_bytes": facts["transmit_bytes"], "denied": facts["denied"]}
                for role, facts in status["roles"].items()
            }
            for name, status in seen.statuses.items()
        },
        "books": [{**vars(book), "balanced": book.balanced} for book in seen.books],
        "unaccounted_bytes": sum(book.unaccounted_bytes for book in seen.books),
        "channels": [
            {
                "name": channel.name,
                "blocked": channel.blocked,
                "wall": channel.wall,
                "counted": channel.counted,
                "control": channel.control,
            }
            for channel in seen.channels
        ],
        "walls": walls,
        "good": seen.good,
    }
