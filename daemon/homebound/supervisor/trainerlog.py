# SPDX-License-Identifier: Apache-2.0
"""What the app prints stays on this device: a file that root alone can read, up to a budget of bytes.

The app may print raw data, so nothing of it goes to the journal. `homebound logs` shows it to root. What is
shown on a terminal cannot steer it. May import: errors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from homebound.errors import HomeboundError, PermissionMissing

FILE = "trainer.log"
CUT = b"\n[homebound: the rest of the app's output was dropped; trainer.log_bytes is the budget]\n"


class TrainerLog:
    """The file, emptied at the daemon's start. ``budget`` in bytes holds until the next one."""

    def __init__(self, path: Path, budget: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._left = budget

    def grant(self, more: int) -> None:
        """Change the budget by ``more`` bytes, which may be less than 0."""
        self._left += more

    def drain(self, reading: int) -> bool:
        """Take what a trainer printed; False when it closed its output. A full disk loses it, no more."""
        os.set_blocking(reading, False)
        while True:
            try:
                part = os.read(reading, 65536)
            except BlockingIOError:
                return True
            if not part:
                return False
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        if self._left <= 0:
            return
        kept = part[: self._left]
        self._left -= len(kept)
        try:
            os.write(self._fd, kept if self._left > 0 else kept + CUT)
        except OSError:
            self._left = 0


def show(path: Path, out: BinaryIO, terminal: bool) -> None:
    """Copy the file to ``out``. On a ``terminal`` control characters and what is no UTF-8 are spelt out.

    Raises PermissionMissing for others than root, HomeboundError when there is no such file yet.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError as error:
        raise PermissionMissing(f"{path} is for root alone", "sudo homebound logs") from error
    except FileNotFoundError as error:
        raise HomeboundError(f"there is no {path}", "the daemon makes it when it starts") from error
    with os.fdopen(descriptor, "rb") as file:
        for line in file:
            out.write(_spelt(line) if terminal else line)
    out.flush()


def _spelt(line: bytes) -> bytes:
    text = line.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text).encode()
