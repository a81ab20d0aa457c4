# SPDX-License-Identifier: Apache-2.0
"""What the app prints stays on this device: a file that root alone can read, up to a budget of bytes.

The app may print raw data, so nothing of it goes to the journal. Imports nothing of ours.
"""

from __future__ import annotations

import os
from pathlib import Path

CUT = b"\n[homebound: the rest of the app's output was dropped; trainer.log_bytes is the budget]\n"


class TrainerLog:
    """The file, emptied at the daemon's start. ``budget`` in bytes holds until the next one."""

    def __init__(self, path: Path, budget: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._left = budget

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
