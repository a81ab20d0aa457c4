# SPDX-License-Identifier: Apache-2.0
"""The guard's books: every decision goes into the ledger here, and what privacy it cost is summed here.

A release is spent when its entry is on the disk, which is before its first byte leaves; nothing gives it
back. The sums are read from the entries at the start, after the whole chain was found intact.
May import: budget, checks, release, bits, books.ledger, books.chain, records, settings, errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from homebound.books import chain
from homebound.books.chain import Entry
from homebound.books.ledger import LedgerWriter
from homebound.errors import ViolationPresent
from homebound.guard import budget
from homebound.guard.release import Payload, Release, Task
from homebound.records import RefusalCode
from homebound.settings import GuardSettings

# A day: what was changed on the disk while we run shows by then at the latest.
VERIFY_SECONDS = 86400.0


class Books:
    """The ledger and the budget of one device. ``wall_clock`` gives seconds since 1970.

    Raises ViolationPresent when the chain is broken, HomeboundError when the file cannot be read.
    """

    def __init__(
        self, writer: LedgerWriter, settings: GuardSettings, wall_clock: Callable[[], float]
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._wall_clock = wall_clock
        self._run = ""
        self._verified = 0.0
        self.verify()
        entries = writer.reader.entries()
        self._spent = budget.tally(json.loads(entry.details) for entry in entries if entry.kind == "release")

    def verify(self) -> None:
        """Go through the whole chain. The newest entry's signature was checked and is over all before it."""
        faults = chain.verify(self._writer.reader.entries(), None, lambda _digest, _signature: True)
        if faults:
            raise ViolationPresent(
                f"the ledger is broken: entry {faults[0].number} {faults[0].problem}",
                "keep it, and run `homebound ledger verify`",
            )
        self._verified = self._wall_clock()

    def affords(self, task: Task) -> bool:
        """Whether an answer to this task would stay within the budget. Metrics alone cost no epsilon."""
        return task.message_type != "train" or budget.affords(self._spent, task.run, self._settings)

    def refuse(self, task: Task, code: RefusalCode) -> None:
        """Note a refusal. HomeboundError when it could not be written."""
        details = {"code": code.value, "run": task.run, "message_type": task.message_type}
        self._writer.append("refusal", task.task, task.round, details=details)

    def release(self, task: Task, decision: Release, payload: Payload) -> Entry:
        """Spend and note a release. HomeboundError when it could not be written: then it must not leave."""
        paid = budget.cost(self._settings) if task.message_type == "train" else 0.0
        entry = self._writer.append(
            "release",
            task.task,
            task.round,
            payload_sha256=payload.sha256,
            payload_bytes=payload.size,
            norm=decision.norm,
            clipped=decision.clipped,
            details={
                "run": task.run,
                "message_type": task.message_type,
                budget.COST: budget.as_detail(paid),
                "noise": self._settings.noise_multiplier * self._settings.clip_norm,
                "clip_norm": self._settings.clip_norm,
                "arrays": decision.arrays,
                "metrics": _metrics(decision),
                "bits": {way: _finite(round(count, 1)) for way, count in decision.bits.items()},
            },
        )
        self._spent = self._spent.add(task.run, paid)
        self._run = task.run
        return entry

    def report(self) -> dict[str, Any]:
        """Where the books stand, as a message to the supervisor. No number in it is infinite: None is."""
        head, settings = self._writer.reader.head(), self._settings
        spent = budget.loss(self._spent, self._run, settings.delta)
        return {
            "type": "ledger",
            "entries": head.number,
            "hash": head.hash,
            "key": self._writer.reader.public_key(),
            "verified": self._verified,
            "epsilon": _finite(spent.total),
            "run_epsilon": _finite(spent.run),
            "run": self._run,
            "epsilon_limit": settings.epsilon_limit,
            "run_epsilon_limit": settings.run_epsilon_limit,
            "delta": settings.delta,
            "exhausted": not budget.affords(self._spent, self._run, settings),
        }


def _metrics(decision: Release) -> dict[str, int | float]:
    """The metrics as they leave; those of a masked update are config values."""
    return {
        key: value
        for record in decision.records
        if record.kind == "metrics" or record.name == "fitres.metrics"
        for key, value in zip(record.keys, record.values, strict=True)
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
