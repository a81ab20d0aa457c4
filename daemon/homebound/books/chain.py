# SPDX-License-Identifier: Apache-2.0
"""The chain that the ledger is: what an entry holds, its hash, and all that can be wrong with a row of them.

Each entry is bound to the one before it by its hash and signed. That shows what was changed, removed, put in
or moved. It cannot show that the end was cut off, or that whoever has the key wrote all of it anew: for that
a Head is kept elsewhere and held against the chain. Pure; knows no file. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# What the first entry has in place of the hash before it.
START = "0" * 64
# What a signature is over: this, then the entry's hash in ASCII.
SIGNED_PREFIX = b"homebound ledger entry\0"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger, in the order of the table's columns.

    ``time`` in seconds since 1970, ``details`` is JSON text, ``hash`` is over all fields before it,
    ``signature`` (Ed25519, 128 hexadecimal digits) is over the hash.
    """

    number: int
    previous: str
    time: float
    kind: str
    task: str
    round: int
    payload_sha256: str
    payload_bytes: int
    norm: float
    clipped: int
    details: str
    hash: str
    signature: str


@dataclass(frozen=True)
class Head:
    """The newest entry that was known at some time; keep it elsewhere to notice a cut tail."""

    number: int = 0
    hash: str = START


@dataclass(frozen=True)
class Fault:
    """What is wrong with the entry ``number`` (0: with the ledger as a whole)."""

    number: int
    problem: str


COLUMNS = tuple(field.name for field in fields(Entry))
HASHED = COLUMNS[: COLUMNS.index("hash")]
# (hash, signature) -> whether the key that is known made it.
Check = Callable[[str, str], bool]


def digest(entry: Entry) -> str:
    """The hash of an entry: SHA-256 over the JSON list of the fields before it."""
    values = [getattr(entry, name) for name in HASHED]
    # A damaged file can hold bytes that are no text: lone surrogates are escaped, a BLOB is shown by repr().
    return hashlib.sha256(json.dumps(values, separators=(",", ":"), default=repr).encode("ascii")).hexdigest()


def verify(entries: Iterable[Entry], head: Head | None, is_signed: Check) -> tuple[Fault, ...]:
    """All faults of a chain in ascending order: changed, missing or moved entries, signatures of others.

    With ``head`` also that the chain still holds that entry; without it a cut tail is not seen.
    """
    faults: list[Fault] = []
    expected, previous, anchored = 1, START, head is None or head.number == 0
    for entry in entries:
        if entry.number != expected:
            faults.append(Fault(expected, f"entries {expected} to {entry.number - 1} are missing"))
        elif entry.previous != previous:
            faults.append(Fault(entry.number, "does not follow the entry before it"))
        if digest(entry) != entry.hash:
            faults.append(Fault(entry.number, "was changed"))
        elif not is_signed(entry.hash, entry.signature):
            faults.append(Fault(entry.number, "is not signed by the ledger's key"))
        anchored = anchored or (head is not None and (entry.number, entry.hash) == (head.number, head.hash))
        expected, previous = entry.number + 1, entry.hash
    if head is not None and not anchored:
        faults.append(Fault(head.number, "is not in the ledger as it was known"))
    return tuple(faults)


def entry_from(values: Mapping[str, Any]) -> Entry:
    """An entry from a document, as dataclasses.asdict() writes one. ValueError when it is none."""
    if set(values) != set(COLUMNS):
        raise ValueError("an entry lacks a field or has one too many")
    numbers, reals = {"number", "round", "payload_bytes", "clipped"}, {"time", "norm"}
    for name, value in values.items():
        wanted: type | tuple[type, ...] = int if name in numbers else float if name in reals else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"an entry's {name} is of the wrong type")
    return Entry(**values)
