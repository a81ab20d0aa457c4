# SPDX-License-Identifier: Apache-2.0
"""The ledger: one entry for each release and refusal, each bound to the one before it by its hash.

SQLite in write-ahead mode with synchronous=FULL: an append is on the disk when it returns, and a torn tail
after a crash is dropped whole (https://sqlite.org/wal.html). One writer, held by a lock file; readers never
wait. The chain shows what was changed, removed or moved inside it. It cannot show that its end was cut
off or that all of it was written anew: for that, compare with a head that was kept elsewhere.
The only file that uses sqlite3. May import: errors.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from homebound.errors import ConfigError, HomeboundError, ViolationPresent

FILE = "ledger.sqlite3"
# What the first entry has in place of the hash before it.
START = "0" * 64
# PRAGMA application_id: "hbnd". PRAGMA user_version: the form of the table.
APPLICATION = 0x68626E64
VERSION = 1
BUSY_SECONDS = 5.0
# A damaged file can put bytes that are no text into SQLite's own messages, which Python then cannot decode.
TROUBLE = (sqlite3.Error, UnicodeDecodeError)

# Changing an entry is refused by SQLite itself; this keeps us from a mistake, not an attacker from a change.
SCHEMA = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    previous TEXT NOT NULL,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    task TEXT NOT NULL,
    round INTEGER NOT NULL,
    payload_sha256 TEXT NOT NULL,
    payload_bytes INTEGER NOT NULL,
    norm REAL NOT NULL,
    clipped INTEGER NOT NULL,
    details TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END;
"""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger, in the order of the table's columns.

    ``time`` in seconds since 1970, ``details`` is JSON text, ``hash`` is over all other fields.
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


@dataclass(frozen=True)
class Head:
    """The newest entry that was known at some time; keep it elsewhere to notice a cut tail."""

    number: int
    hash: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with the entry ``number`` (0: with the file itself)."""

    number: int
    problem: str


COLUMNS = tuple(field.name for field in fields(Entry))
_INSERT = f"INSERT INTO entries VALUES ({','.join('?' * len(COLUMNS))})"
_HEAD = "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
_SELECT = f"SELECT {','.join(COLUMNS)} FROM entries ORDER BY number"


def digest(entry: Entry) -> str:
    """The hash of an entry: SHA-256 over the JSON list of its other fields."""
    values = [getattr(entry, name) for name in COLUMNS if name != "hash"]
    # A damaged file can hold bytes that are no text: lone surrogates are escaped, a BLOB is shown by repr().
    return hashlib.sha256(json.dumps(values, separators=(",", ":"), default=repr).encode("ascii")).hexdigest()


def verify(entries: Iterable[Entry], head: Head | None = None) -> tuple[Fault, ...]:
    """All faults of a chain in ascending order: changed, missing or moved entries.

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
        anchored = anchored or (head is not None and (entry.number, entry.hash) == (head.number, head.hash))
        expected, previous = entry.number + 1, entry.hash
    if head is not None and not anchored:
        faults.append(Fault(head.number, "is not in the ledger as it was known"))
    return tuple(faults)


class LedgerReader:
    """Reads a ledger, also while its writer runs. Use open_reader()."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def entries(self) -> Iterator[Entry]:
        """All entries in order. HomeboundError if the file is damaged."""
        try:
            for row in self._connection.execute(_SELECT):
                yield Entry(*row)
        except TROUBLE as error:
            raise _failure(self._path, error) from error

    def head(self) -> Head:
        """The newest entry; number 0 and START when there is none."""
        try:
            row = self._connection.execute(_HEAD).fetchone()
        except TROUBLE as error:
            raise _failure(self._path, error) from error
        return Head(*row) if row else Head(0, START)

    def verify(self, head: Head | None = None) -> tuple[Fault, ...]:
        """As verify() above; a file that cannot be read to its end is a fault, too."""
        try:
            return verify(self.entries(), head)
        except HomeboundError as error:
            return (Fault(0, f"the file is damaged: {error}"),)

    def close(self) -> None:
        self._connection.close()


class LedgerWriter:
    """The one process that may append. Use open_writer()."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, lock: int, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock
        self._clock = clock
        self.reader = LedgerReader(connection, path)

    def append(
        self,
        kind: str,
        task: str,
        round_number: int,
        *,
        payload_sha256: str = "",
        payload_bytes: int = 0,
        norm: float = 0.0,
        clipped: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Add an entry; it is on the disk when this returns.

        Raises HomeboundError when it could not be written; the ledger is then as it was before.
        """
        text = json.dumps(dict(details or {}), sort_keys=True, separators=(",", ":"), allow_nan=False)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            head = self.reader.head()
            entry = Entry(
                head.number + 1, head.hash, float(self._clock()), kind, task, round_number,
                payload_sha256, payload_bytes, float(norm), int(clipped), text, "",
            )  # fmt: skip
            entry = replace(entry, hash=digest(entry))
            self._connection.execute(_INSERT, [getattr(entry, name) for name in COLUMNS])
            self._connection.execute("COMMIT")
        except (*TROUBLE, HomeboundError) as error:
            self._rollback()
            raise _failure(self._path, error) from error
        return entry

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            # After a full disk SQLite may have rolled back by itself (https://sqlite.org/lang_transaction.html).
            with contextlib.suppress(*TROUBLE):
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)


def open_writer(path: Path, clock: Callable[[], float]) -> LedgerWriter:
    """Open or make the ledger at ``path`` for appending. ``clock`` gives seconds since 1970.

    HomeboundError when another writer has it or it cannot be made; ViolationPresent when its end is broken.
    """
    lock = _take_lock(path)
    try:
        connection = _connect(path.absolute().as_uri(), path)
        try:
            _prepare(connection, path)
            _check_end(connection, path)
        except BaseException:
            connection.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return LedgerWriter(connection, path, lock, clock)


def open_reader(path: Path) -> LedgerReader:
    """Open the ledger at ``path`` without changing it. HomeboundError when it is not there or not one."""
    if not path.is_file():
        raise HomeboundError(f"there is no ledger at {path}", "it appears with the first start of the daemon")
    uri = path.absolute().as_uri() + "?mode=ro"
    if not Path(f"{path}-wal").exists() and not os.access(path.parent, os.W_OK):
        # Where its side files cannot be made SQLite wants to be told that nobody writes (wal.html, 5).
        uri += "&immutable=1"
    connection = _connect(uri, path)
    try:
        _check_form(connection, path)
    except BaseException:
        connection.close()
        raise
    return LedgerReader(connection, path)


def _take_lock(path: Path) -> int:
    """flock(2) on a file beside the ledger; the kernel drops it with its holder, so it is never stale."""
    lock = _make(path.with_name(path.name + ".lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite gives its side files the mode of this one.
        os.close(_make(path))
    except BlockingIOError as error:
        os.close(lock)
        raise HomeboundError(
            f"another process writes the ledger {path}",
            "stop the other daemon, or give this device a name of its own",
        ) from error
    except HomeboundError:
        os.close(lock)
        raise
    return lock


def _make(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HomeboundError(
            f"cannot open {path}: {error.strerror}", "see that its folder exists, is ours and has room"
        ) from error


def _connect(uri: str, path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
    except TROUBLE as error:
        raise _failure(path, error) from error
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION};"
                f"{SCHEMA} COMMIT;"
            )
    except TROUBLE as error:
        raise _failure(path, error) from error
    _check_form(connection, path)


def _check_form(connection: sqlite3.Connection, path: Path) -> None:
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except TROUBLE as error:
        raise _failure(path, error) from error
    if application != APPLICATION:
        raise ConfigError(f"{path} is not a ledger of ours", "move it away or set another paths.state")
    if version != VERSION:
        raise ConfigError(
            f"the ledger {path} has form {version}, this version reads {VERSION}",
            "install the version that wrote it",
        )


def _check_end(connection: sqlite3.Connection, path: Path) -> None:
    """The newest entry is whole, so that nothing is chained to a broken end. The rest is for verify()."""
    try:
        row = connection.execute(_SELECT + " DESC LIMIT 1").fetchone()
    except TROUBLE as error:
        raise _failure(path, error) from error
    if row and digest(entry := Entry(*row)) != entry.hash:
        raise ViolationPresent(
            f"entry {entry.number} of the ledger {path} was changed", "run `homebound ledger verify`"
        )


def _failure(path: Path, error: Exception) -> HomeboundError:
    if isinstance(error, HomeboundError):
        return error
    text = str(error)
    hint = "free some space" if "full" in text or "disk I/O" in text else "run `homebound ledger verify`"
    return HomeboundError(f"the ledger {path} cannot be used: {text}", hint)
