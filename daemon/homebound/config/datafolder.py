# SPDX-License-Identifier: Apache-2.0
"""Is the data folder fit to be shown to the trainer: there, not empty, closed in itself, readable.

A link, FIFO, socket or device node in it could be a way out that no network wall sees. Whether the trainer
can read it is tried by a short child that becomes the trainer's user, not computed from modes: access
lists and network file systems have rules of their own. Opens files, reads none. Imports nothing of ours.
Source: credentials(7), setresuid(2), inode(7), fifo(7).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPECIAL = {
    stat.S_IFIFO: "a FIFO, which leads to another process",
    stat.S_IFSOCK: "a socket, which leads to another process",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
# No O_NOATIME: it is the owner's alone. O_NONBLOCK: whatever a name has become meanwhile, do not hang.
TRIAL_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Reader:
    """Whom the folder must be readable for."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One fault. ``path`` is relative to the folder, empty for the folder itself."""

    path: str
    what: str
    hint: str


def audit(folder: Path, reader: Reader | None = None, most: int = 10) -> tuple[Finding, ...]:
    """The faults of ``folder``, at most ``most`` and then one that counts the rest.

    With a ``reader`` and as root, every folder and file is also opened as that user.
    """
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return (Finding("", "does not exist", "make the folder or correct data.path"),)
    except OSError as error:
        return (Finding("", f"cannot be looked at: {error.strerror}", "run this as root"),)
    if not stat.S_ISDIR(mode):
        return (Finding("", "is not a folder", "name the folder that holds the data"),)
    findings = list(_structure(folder.resolve()))
    if reader is not None and os.geteuid() == 0:
        findings += _readable(folder, reader, most)
    if len(findings) > most:
        rest = len(findings) - most
        findings = [*findings[:most], Finding("", f"and {rest} more like these", "correct them alike")]
    return tuple(findings)


def _structure(folder: Path) -> Iterator[Finding]:
    """What is wrong with the kinds of the entries, whoever reads them."""
    empty = True
    pending = [folder]
    while pending:
        below = pending.pop()
        try:
            found = _entries(below)
        except OSError as error:
            empty = False  # nobody knows; do not call it empty
            yield Finding(
                _shown(below, folder), f"cannot be looked into: {error.strerror}", "run this as root"
            )
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
                continue
            empty = False
            yield from _kind(entry, folder)
    if empty:
        yield Finding("", "holds no file", "put the training data there")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _kind(entry: os.DirEntry[str], folder: Path) -> Iterator[Finding]:
    path = Path(entry.path)
    if entry.is_symlink():
        # Not Path.resolve(): it raises on a loop of links before Python 3.13.
        target = Path(os.path.realpath(path))
        absolute = path.readlink().is_absolute()
        if not target.is_relative_to(folder):
            yield Finding(
                _shown(path, folder), "is a link that leads out of the folder", "replace it by a copy"
            )
        elif absolute:  # the trainer sees the folder under another name
            yield Finding(_shown(path, folder), "is a link with an absolute path", "make the link relative")
    elif not entry.is_file(follow_symlinks=False):
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        yield Finding(_shown(path, folder), f"is {SPECIAL.get(kind, 'no file')}", "remove it")


def _readable(folder: Path, reader: Reader, most: int) -> list[Finding]:
    """Open everything as ``reader`` in a child that ends at once; the faults it met."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receiving)
            refused = _try_as(folder, reader, most)
            with os.fdopen(sending, "w", encoding="utf-8") as report:
                json.dump(refused, report)
            os._exit(0)
        finally:  # whatever happens, never return into the caller's code a second time
            os._exit(1)
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8") as report:
        text = report.read()
    _, status = os.waitpid(child, 0)
    who = f"user {reader.uid}, groups {', '.join(map(str, (reader.gid, *reader.groups)))}"
    if os.waitstatus_to_exitcode(status) != 0:
        return [Finding("", f"could not be tried as {who}", "look whether this host allows setresuid(2)")]
    faults = []
    for path, number in json.loads(text):
        hint = f"make it readable for {who}, or name its group in trainer.groups"
        if number in (errno.ENOENT, errno.ELOOP):
            hint = "remove the link, or let it lead to a file in the folder"
        faults.append(Finding(path, f"cannot be read by the trainer: {os.strerror(number)}", hint))
    return faults


def _try_as(folder: Path, reader: Reader, most: int) -> list[tuple[str, int]]:
    """Become ``reader`` for good and open all; (path, errno) for each refusal, ``most`` + 1 or a few more.

    The folder is entered before the rights go: the trainer gets it mounted, so what lies above is no bar.
    """
    os.chdir(folder)
    os.setgroups(reader.groups)
    os.setresgid(reader.gid, reader.gid, reader.gid)
    os.setresuid(reader.uid, reader.uid, reader.uid)
    here = Path()
    refused: list[tuple[str, int]] = []
    pending = [here]
    while pending and len(refused) <= most:
        below = pending.pop()
        try:
            found = _entries(below)
        except OSError as error:
            refused.append((_shown(below, here), error.errno or 0))
            continue
        pending += [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        for entry in found:
            refused += _try_open(entry)
    return refused


def _try_open(entry: os.DirEntry[str]) -> list[tuple[str, int]]:
    path = Path(entry.path)
    absolute = entry.is_symlink() and path.readlink().is_absolute()
    if absolute or not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
        return []  # a finding of its own
    try:
        os.close(os.open(path, TRIAL_FLAGS))
    except OSError as error:
        return [(_shown(path, Path()), error.errno or 0)]
    return []


def _shown(path: Path, folder: Path) -> str:
    """Relative to the folder, and free of bytes that are no text or would move a terminal's cursor."""
    relative = path.relative_to(folder)
    text = "" if relative == Path() else str(relative)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
