# SPDX-License-Identifier: Apache-2.0
"""Whatever the guard does to an answer, it leaves at some moment, or not: bits that no check can take away.

A guard's process, whose trainer waits or fails as the payload says, seen from the gateway's end of the link.
May import: the guard's rig.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unit.guard.rig import HONEST, MODEL, W, model, read, rig, write

# Far above what a round of this model takes, so that a busy machine changes no bit.
STEP_SECONDS = 0.25


def by_time(state: Path, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A bit a round: answer at once for a 0, later for a 1."""
    found = []
    with rig(state) as guard:
        link = guard.trainer()
        for number, bit in enumerate(bits):
            guard.send_task(MODEL, f"t{number}")
            guard.hear("started")
            read(link)
            began = time.monotonic()
            time.sleep(STEP_SECONDS * int(bit))
            write(link, "update", {"task": f"t{number}"}, HONEST)
            assert read(guard.gateway).kind == "release"
            found.append(time.monotonic() - began > STEP_SECONDS / 2)
            guard.hear("released")
    return np.array(found, np.uint8)


def by_refusal(state: Path, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A bit a round: answer for a 0, something that is refused for a 1."""
    found = []
    with rig(state) as guard:
        link = guard.trainer()
        for number, bit in enumerate(bits):
            guard.send_task(MODEL, f"t{number}")
            guard.hear("started")
            read(link)
            update = model(np.full_like(W, np.nan)) if bit else HONEST
            write(link, "update", {"task": f"t{number}"}, update)
            found.append(read(guard.gateway).kind == "refusal")
            guard.hear("refused" if bit else "released")
    return np.array(found, np.uint8)
