# SPDX-License-Identifier: Apache-2.0
"""Replies that wait on disk until the federation acknowledged them; each is one file.

A file appears whole or not at all (written apart, synced, renamed; rename(2)) and survives kill -9.
The reply "no update" is put there when a task arrives, so that after a crash the federation need not wait.
Holds released updates only, never raw data. Knows nothing of Flower: a reply is bytes with a name.
May import: errors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from homebound.errors import HomeboundError

MAGIC = b"HBO1"
PREFIX = struct.Struct("<4sI")
MAX_HEADER = 16 << 20
READY, OPEN, UNFINISHED = ".reply", ".open", ".part"
TASK = re.compile(r"[0-9A-Za-z_-]{1,128}")


class OutboxError(HomeboundError):
    """A reply could not be written or read; ``full`` tells whether the disk is full."""

    def __init__(self, message: str, hint: str, *, full: bool = False) -> None:
        super().__init__(message, hint)
        self.full = full


@dataclass(frozen=True)
class Parcel:
    """One reply, ready to be sent: its envelope and the objects that it is made of, in sending order.

    ``task`` names the message it answers, ``node`` is the number of this device at that time.
    """

    task: str
    run: int
    round: int
    node: int
    envelope: bytes
    tree: bytes
    objects: tuple[tuple[str, bytes], ...]
    released: bool


class Outbox:
    """A folder of replies. One process uses it at a time."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be; clear away unfinished files. Replies of a former life become ready."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            for path in sorted(folder.glob("*" + UNFINISHED)):
                path.unlink()
            for path in sorted(folder.glob("*" + OPEN)):
                ready = path.with_suffix(READY)
                if ready.exists():
                    path.unlink()
                else:
                    path.rename(ready)
            _sync(folder)
        except OSError as error:
            raise _failure(error, folder) from error

    def open(self, parcel: Parcel) -> None:
        """Keep ``parcel`` as the answer should this process die before put(). Raises OutboxError."""
        self._write(parcel, OPEN)

    def put(self, parcel: Parcel) -> None:
        """Keep ``parcel`` until remove(); it takes the place of what open() kept. Raises OutboxError."""
        self._write(parcel, READY)
        self._path(parcel.task, OPEN).unlink(missing_ok=True)

    def remove(self, task: str) -> None:
        """Forget the reply to a task; it was acknowledged or is to be dropped."""
        with contextlib.suppress(OSError):
            for suffix in (READY, OPEN):
                self._path(task, suffix).unlink(missing_ok=True)
            _sync(self._folder)

    def waiting(self) -> list[str]:
        """Tasks whose replies are ready, oldest first."""
        found = []
        for path in self._folder.glob("*" + READY):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path.stem))
        return [task for _, task in sorted(found)]

    def load(self, task: str) -> Parcel:
        """The reply to a task. Raises OutboxError when it is damaged; it can only be removed then."""
        path = self._path(task, READY)
        try:
            with path.open("rb") as file:
                return _read(file, task)
        except OSError as error:
            raise _failure(error, self._folder) from error
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise OutboxError(f"the kept reply {path.name} is damaged", "it is dropped") from error

    def _path(self, task: str, suffix: str) -> Path:
        if not TASK.fullmatch(task):
            raise OutboxError("the federation gave a task a name that is none", "look at the SuperLink")
        return self._folder / (task + suffix)

    def _write(self, parcel: Parcel, suffix: str) -> None:
        path = self._path(parcel.task, suffix)
        part = path.with_name(path.name + UNFINISHED)
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                for piece in _pieces(parcel):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            _sync(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise _failure(error, self._folder) from error


def _pieces(parcel: Parcel) -> Iterator[bytes]:
    blobs = [parcel.envelope, parcel.tree, *(content for _, content in parcel.objects)]
    digest = hashlib.sha256()
    for blob in blobs:
        digest.update(blob)
    header = json.dumps(
        {
            "task": parcel.task,
            "run": parcel.run,
            "round": parcel.round,
            "node": parcel.node,
            "released": parcel.released,
            "objects": [name for name, _ in parcel.objects],
            "lengths": [len(blob) for blob in blobs],
            "sha256": digest.hexdigest(),
        }
    ).encode()
    yield PREFIX.pack(MAGIC, len(header))
    yield header
    yield from blobs


def _read(file: BinaryIO, task: str) -> Parcel:
    """The parcel in a file, checked. Raises ValueError, KeyError, TypeError or struct.error if damaged."""
    magic, length = PREFIX.unpack(file.read(PREFIX.size))
    if magic != MAGIC or length > MAX_HEADER:
        raise ValueError
    header = json.loads(file.read(length))
    digest = hashlib.sha256()
    blobs = []
    for count in header["lengths"]:
        blob = file.read(count)
        if len(blob) != count:
            raise ValueError
        digest.update(blob)
        blobs.append(blob)
    if digest.hexdigest() != header["sha256"] or header["task"] != task or file.read(1):
        raise ValueError
    envelope, tree, *contents = blobs
    return Parcel(
        task=task,
        run=int(header["run"]),
        round=int(header["round"]),
        node=int(header["node"]),
        envelope=envelope,
        tree=tree,
        objects=tuple(zip(header["objects"], contents, strict=True)),
        released=bool(header["released"]),
    )


def _sync(folder: Path) -> None:
    """A rename is durable only once its folder is synced; fsync(2)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(error: OSError, folder: Path) -> OutboxError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    hint = "free some space there" if full else "check who owns it and that it can be written"
    return OutboxError(f"the outbox in {folder} cannot be used: {error.strerror}", hint, full=full)
