# SPDX-License-Identifier: Apache-2.0
"""The digest of an app folder: the same for the same files, whatever their times, owners and modes.

The operator approves this number; the supervisor compares it before the trainer starts.
__pycache__ is left out, so whoever runs the app must not read bytecode from the folder (PYTHONPYCACHEPREFIX).
Lean: the standard library. May import: errors.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from homebound.errors import ConfigError

SKIPPED = "__pycache__"
# An app is code. More than this in its folder is a mistake (a data set, a virtual environment).
MAX_FILES, MAX_BYTES = 10_000, 1 << 30


def tree_sha256(folder: Path) -> str:
    """64 hexadecimal digits for what lies in ``folder``.

    SHA-256 over one line a file, "digest of the content, space, name with slashes, NUL", sorted by name.
    Raises ConfigError if the folder cannot be read or holds anything but files and folders.
    """
    total = hashlib.sha256()
    room = MAX_BYTES
    for count, (name, path) in enumerate(sorted(_files(folder))):
        digest, size = _content(path, folder)
        room -= size
        if count >= MAX_FILES or room < 0:
            raise ConfigError(
                f"the app folder {folder} is larger than an app",
                f"at most {MAX_FILES} files and {MAX_BYTES >> 20} MiB: move data and environments elsewhere",
            )
        total.update(digest.encode("ascii") + b" " + os.fsencode(name) + b"\0")
    return total.hexdigest()


def require(folder: Path, approved: str) -> None:
    """Raises ConfigError when what lies in ``folder`` is not what the operator approved by this hash."""
    found = tree_sha256(folder)
    if found != approved:
        raise ConfigError(
            f"the app in {folder} is not the approved one",
            f"its hash is {found}; look at what changed, then run `homebound app-hash` and approve it",
        )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name below the folder and path of every file. Raises ConfigError as tree_sha256."""

    def refuse(error: OSError) -> None:
        raise ConfigError(
            f"the app folder {folder} cannot be read: {error.strerror}", "check app.path and its rights"
        ) from error

    found = False
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name != SKIPPED]
        for name in folders + names:
            path = Path(root, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise ConfigError(
                    f"the app folder holds {path.relative_to(folder)}, which is no file",
                    "replace links by what they point to; sockets, pipes and devices do not belong there",
                )
            if stat.S_ISREG(mode):
                found = True
                yield path.relative_to(folder).as_posix(), path
    if not found:
        raise ConfigError(f"the app folder {folder} is empty", "set app.path to the folder of the Flower app")


def _content(path: Path, folder: Path) -> tuple[str, int]:
    try:
        # O_NOFOLLOW and O_NONBLOCK: the file may have been swapped for a link or a pipe since it was listed.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ConfigError(
            f"{path.relative_to(folder)} in the app folder cannot be read: {error.strerror}",
            "check its rights",
        ) from error
