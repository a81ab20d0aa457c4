# SPDX-License-Identifier: Apache-2.0
"""Lets the gateway send what was released: adds to a number that the kernel's filter on its cgroup reads.

The number is a cell of the BPF map ``credit``, mapped into memory: the guard makes no bpf(2) call and has no
other map. The gateway has no descriptor of it. Granted before the release is handed over, so no packet of it
comes too early. Without a descriptor (a test, a kernel without the map) nothing is granted and nothing asked.
May import: books.accounts. Source: bpf(2), BPF_F_MMAPABLE (Linux 5.5).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from homebound.books import accounts

# Our cell: events.Credit.GUARD, which is not imported because it would load ctypes.
CELL = 0
# A release also pays for the questions around it. Whoever holds the gateway can make up tasks, so this part
# is not given more often than an honest federation could want it.
ROUND_SECONDS = 5.0


class Purse:
    """The guard's cell. ``clock`` gives monotonic seconds."""

    def __init__(self, fd: int | None, clock: Callable[[], float]) -> None:
        page = mmap.mmap(-1 if fd is None else fd, mmap.PAGESIZE)
        # A cast to "Q" writes in one piece. Nobody else writes this cell.
        self._cells = memoryview(page).cast("Q")
        self._clock = clock
        self._paid_at = clock() - ROUND_SECONDS

    @property
    def granted(self) -> int:
        """Bytes granted since the map was made, by all guards that had it."""
        return int(self._cells[CELL])

    def grant(self, payload_bytes: int, arrays: int) -> int:
        """Grant what a release of this size may cost on the wire; all that was granted up to now."""
        count = accounts.wire_bytes(payload_bytes, arrays)
        now = self._clock()
        if now - self._paid_at < ROUND_SECONDS:
            count -= accounts.OVERHEAD_BYTES
        else:
            self._paid_at = now
        self._cells[CELL] = (self.granted + count) % (1 << 64)
        return self.granted
