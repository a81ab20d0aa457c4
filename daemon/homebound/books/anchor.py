# SPDX-License-Identifier: Apache-2.0
"""The ledger's newest entry, kept a second time where the guard cannot write: an older ledger shows by it.

The guard tells the supervisor where its ledger stands after every entry. Number, hash and public key go to a
file of root's own and come back to the guard at its next start. Whoever restores both files from the same
old copy is not found by this; the journal has each head, too. For the supervisor alone.
May import: books.chain, books.ledger, errors.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homebound.books import ledger
from homebound.books.chain import Head
from homebound.errors import ConfigError, ViolationPresent

FILE = "anchor.json"
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Anchor:
    """The newest entry that is known of, and the key that signed it ("" before the guard first spoke)."""

    number: int = 0
    hash: str = Head().hash
    key: str = ""

    @property
    def head(self) -> Head:
        return Head(self.number, self.hash)


def load(path: Path) -> Anchor:
    """What was kept; nothing yet where there is no file. ConfigError when it is damaged."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Anchor()
    except ValueError:
        document = None
    found = read(document)
    if found is None:
        raise ConfigError(
            f"{path} is damaged", "see docs/ledger.md on how to begin anew; what was spent stays spent"
        )
    return found


def read(document: Any) -> Anchor | None:
    """An anchor from a file or a report; None when it makes no sense."""
    if not isinstance(document, dict):
        return None
    number, digest, key = (document.get(name) for name in ("number", "hash", "key"))
    if type(number) is not int or number < 0 or not isinstance(digest, str) or not isinstance(key, str):
        return None
    if HASH.fullmatch(digest) is None or HASH.fullmatch(key) is None:
        return None
    return Anchor(number, digest, key)


def store(path: Path, anchor: Anchor) -> None:
    """Keep it; on the disk and whole when this returns. Raises OSError."""
    partial = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        partial.unlink()
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        json.dump(asdict(anchor), file)
        file.flush()
        os.fsync(fd)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Kept:
    """The anchor of one device, and the guard's last whole word on its ledger (empty before the first).

    ``trouble``: why the newest head is not on the disk; empty when it is. Raises as load().
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.anchor = load(path)
        self.report: dict[str, Any] = {}
        self.trouble = ""

    def take(self, report: dict[str, Any]) -> None:
        """Keep what a report of the type "ledger" says. One that would go back is not believed."""
        if report.get("type") != "ledger":
            return
        told = read({**report, "number": report.get("entries")})
        if told is None or told.number < self.anchor.number:
            return
        self.report = report
        if told == self.anchor and not self.trouble:
            return
        self.anchor, self.trouble = told, ""
        try:
            store(self._path, told)
        except OSError as error:
            self.trouble = f"the ledger's head cannot be kept in {self._path}: {error.strerror}"

    def check(self, file: Path) -> None:
        """The ledger in ``file`` is not older than the anchor, and of the same key. ViolationPresent."""
        if not file.exists():
            if self.anchor.number:
                raise ViolationPresent(
                    f"the ledger {file} is gone; it had {self.anchor.number} entries",
                    "put it back; see docs/ledger.md",
                )
            return
        with closing(ledger.open_reader(file)) as reader:
            ledger.check_anchor(reader, self.anchor.head)
            key = reader.public_key()
        if self.anchor.key and key != self.anchor.key:
            raise ViolationPresent(
                f"the ledger {file} has another key than it had", "it was written anew; see docs/ledger.md"
            )
