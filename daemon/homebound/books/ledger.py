# SPDX-License-Identifier: Apache-2.0
"""The ledger: one entry for each release and refusal, chained and signed (chain.py), in one SQLite file.

Write-ahead mode with synchronous=FULL: an append is on the disk when it returns, and a torn tail after a
crash is dropped whole (https://sqlite.org/wal.html). One writer, held by a lock file; readers never wait.
What privacy was spent stands in the entries themselves, so no second file exists whose loss would refund it.
The only file that uses sqlite3. May import: books.chain, books.signing, errors.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homebound.books import chain
from homebound.books.chain import COLUMNS, Entry, Fault, Head, digest
from homebound.errors import ConfigError, HomeboundError, ViolationPresent

if TYPE_CHECKING:
    from homebound.books.signing import Signer

FILE = "ledger.sqlite3"
KEY_FILE = "ledger.key"
# PRAGMA application_id: "hbnd". PRAGMA user_version: the form of the table.
APPLICATION = 0x68626E64
VERSION = 2
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
    hash TEXT NOT NULL,
    signature TEXT NOT NULL
) STRICT;
CREATE TABLE key (public TEXT NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER entries_last BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'entries are never removed'); END;
"""
_INSERT = f"INSERT INTO entries VALUES ({','.join('?' * len(COLUMNS))})"
_HEAD = "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
_SELECT = f"SELECT {','.join(COLUMNS)} FROM entries ORDER BY number"


class LedgerReader:
    """Reads a ledger, also while its writer runs. Use open_reader()."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """All entries in order. HomeboundError if the file is damaged."""
        try:
            for row in self._connection.execute(_SELECT):
                yield Entry(*row)
        except TROUBLE as error:
            raise _failure(self.path, error) from error

    def head(self) -> Head:
        """The newest entry; Head() when there is none."""
        row = self._first(_HEAD)
        return Head(*row) if row else Head()

    def last(self) -> Entry | None:
        """The newest entry whole."""
        row = self._first(_SELECT + " DESC LIMIT 1")
        return Entry(*row) if row else None

    def public_key(self) -> str:
        """The key that signs, as this file names it; empty when it names none."""
        row = self._first("SELECT public FROM key")
        return str(row[0]) if row else ""

    def holds(self, head: Head) -> bool:
        """Whether that entry is here, with that hash."""
        row = self._first("SELECT hash FROM entries WHERE number = ?", head.number)
        return head.number == 0 or row == (head.hash,)

    def verify(self, head: Head | None = None, public: str = "") -> tuple[Fault, ...]:
        """As chain.verify(), with the key ``public`` or else the one that the file names.

        A file that cannot be read to its end is a fault, too.
        """
        from homebound.books.signing import Verifier  # here, because most readers do without

        try:
            known = self.public_key()
            faults = chain.verify(self.entries(), head, Verifier(public or known).is_signed)
        except HomeboundError as error:
            return (Fault(0, f"the file is damaged: {error}"),)
        if public and public != known:
            return (Fault(0, "the file names another key than the one that was known"), *faults)
        return faults

    def _first(self, query: str, *values: int) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        except TROUBLE as error:
            raise _failure(self.path, error) from error
        return row

    def close(self) -> None:
        self._connection.close()


class LedgerWriter:
    """The one process that may append. Use open_writer()."""

    def __init__(
        self, reader: LedgerReader, connection: sqlite3.Connection, lock: int, signer: Signer,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.reader = reader
        self._connection = connection
        self._path = reader.path
        self._lock = lock
        self._signer = signer
        self._clock = clock

    @property
    def public(self) -> str:
        """Who signs: the public key as 64 hexadecimal digits."""
        return self._signer.public

    def sign(self, digest: str, prefix: bytes) -> str:
        """Sign something else than an entry, which ``prefix`` tells apart from one."""
        return self._signer.sign(digest, prefix)

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
                payload_sha256, payload_bytes, float(norm), int(clipped), text, "", "",
            )  # fmt: skip
            entry = replace(entry, hash=(name := digest(entry)), signature=self._signer.sign(name))
            self._connection.execute(_INSERT, [getattr(entry, column) for column in COLUMNS])
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


def open_writer(
    path: Path, clock: Callable[[], float], signer: Signer | None = None, anchor: Head | None = None
) -> LedgerWriter:
    """Open or make the ledger at ``path`` for appending. ``clock`` gives seconds since 1970.

    Without ``signer`` the key is in KEY_FILE beside it, made with the ledger. ``anchor`` is the newest entry
    that was known elsewhere. HomeboundError when another writer has it or it cannot be made; ConfigError
    when its key is missing; ViolationPresent when its end is broken, unsigned, or before the anchor.
    """
    lock = _take_lock(path)
    try:
        connection = _connect(path.absolute().as_uri(), path)
        try:
            _prepare(connection, path)
            reader = LedgerReader(connection, path)
            signer = _find_key(connection, reader, signer)
            _check_end(reader, anchor or Head())
        except BaseException:
            connection.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return LedgerWriter(reader, connection, lock, signer, clock)


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


def _find_key(connection: sqlite3.Connection, reader: LedgerReader, signer: Signer | None) -> Signer:
    """The key for this ledger. A new one is made for a new ledger only: else an old one would fall apart."""
    from homebound.books import signing

    file = reader.path.with_name(KEY_FILE)
    known, is_new = reader.public_key(), reader.head() == Head()
    found = signer or signing.load_key(file)
    if found is None and (known or not is_new):
        raise ConfigError(f"the key of the ledger {reader.path} is missing", f"put {file} back from a backup")
    found = found or signing.make_key(file)
    if known and found.public != known:
        raise ConfigError(f"the ledger {reader.path} was begun with another key", "put that key back")
    if not known:
        try:
            connection.execute("INSERT INTO key VALUES (?)", (found.public,))
        except TROUBLE as error:
            raise _failure(reader.path, error) from error
    return found


def _check_end(reader: LedgerReader, anchor: Head) -> None:
    """The newest entry is whole and ours, so that nothing is chained to a broken end; the rest is verify()'s.

    And it is not older than what was known elsewhere.
    """
    from homebound.books.signing import Verifier

    last = reader.last()
    if last and digest(last) != last.hash:
        raise ViolationPresent(
            f"entry {last.number} of the ledger {reader.path} was changed", "run `homebound ledger verify`"
        )
    if last and not Verifier(reader.public_key()).is_signed(last.hash, last.signature):
        raise ViolationPresent(
            f"entry {last.number} of the ledger {reader.path} is not signed by its key",
            "run `homebound ledger verify`",
        )
    check_anchor(reader, anchor)


def check_anchor(reader: LedgerReader, anchor: Head) -> None:
    """The ledger still holds the newest entry that was known elsewhere. Raises ViolationPresent."""
    if not reader.holds(anchor):
        ends = reader.head().number
        what = f"ends at {ends}, before" if ends < anchor.number else "no longer has"
        raise ViolationPresent(
            f"the ledger {reader.path} {what} entry {anchor.number} as it was known",
            "an older copy was put back, or it was changed; see docs/ledger.md",
        )


def _failure(path: Path, error: Exception) -> HomeboundError:
    if isinstance(error, HomeboundError):
        return error
    text = str(error)
    hint = "free some space" if "full" in text or "disk I/O" in text else "run `homebound ledger verify`"
    return HomeboundError(f"the ledger {path} cannot be used: {text}", hint)
