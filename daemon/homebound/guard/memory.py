# SPDX-License-Identifier: Apache-2.0
"""That memory of an update goes back to the system when the round is over. May import: nothing of ours.

Left alone, glibc takes arrays of a few megabytes from its heap once it has seen some of them freed, and what
lies above them keeps them resident between two rounds: 57 MB after an update of 100 MB.
Source: mallopt(3), "M_MMAP_THRESHOLD" and the paragraph on its dynamic change.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# From so many bytes on, what is allocated has a mapping of its own, which ends with it. All that a chunk of
# an update needs is smaller and stays in the heap, of which so much may be free: it is not mapped each time.
LARGE_BYTES, FREE_BYTES = 1 << 20, 8 << 20


def give_back() -> None:
    """From now on. With a C library that has no mallopt() nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, FREE_BYTES)
