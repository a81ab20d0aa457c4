# SPDX-License-Identifier: Apache-2.0
"""Ledgers for tests: filled with COUNT entries, read back, verified."""

from __future__ import annotations

import itertools
from pathlib import Path

from homebound.books import ledger
from homebound.books.chain import Entry, Fault, Head
from homebound.books.ledger import LedgerWriter
from homebound.errors import HomeboundError

COUNT = 23


def fill(writer: LedgerWriter, count: int = COUNT) -> list[Entry]:
    return [
        writer.append(
            "release" if i % 3 else "refusal",
            f"task-{i}",
            i,
            payload_sha256="ab" * 32,
            payload_bytes=1000 + i,
            norm=i / 7,
            clipped=i % 2 == 0,
            details={"run": "é", "n": i},
        )
        for i in range(count)
    ]


def writer_at(path: Path) -> LedgerWriter:
    """A writer whose clock gains half a second at each entry."""
    times = itertools.count(1_700_000_000.25, 0.5)
    return ledger.open_writer(path, lambda: next(times))


def read(path: Path) -> list[Entry]:
    reader = ledger.open_reader(path)
    try:
        return list(reader.entries())
    finally:
        reader.close()


def faults(path: Path, head: Head | None = None) -> tuple[Fault, ...]:
    try:
        reader = ledger.open_reader(path)
    except HomeboundError as error:
        return (Fault(0, str(error)),)
    try:
        return reader.verify(head)
    finally:
        reader.close()
