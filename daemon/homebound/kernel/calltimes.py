# SPDX-License-Identifier: Apache-2.0
"""How long the trainer's system calls took, by class, as bpf/calltimes.bpf.c counted it.

The mirror of bpf/include/calltimes.h, compared by tests/kernel/test_layout.py.
May import: events, kernel.maps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

from homebound.events import CallClass
from homebound.kernel import maps

SLOTS = 40
NS = 1e9


class CallTimesRecord(ctypes.Structure):
    """struct hb_call_times"""

    _fields_ = (("slots", ctypes.c_uint64 * SLOTS), ("total_ns", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class CallTimes:
    """``slots``: calls that took at most 2**i nanoseconds and more than half of that; the last one also holds
    what took longer. ``total_ns``: of all of them."""

    slots: tuple[int, ...]
    total_ns: int

    def at_most(self, slot: int) -> int:
        """How many took no more than 2**slot nanoseconds."""
        return sum(self.slots[: slot + 1])

    def __add__(self, other: CallTimes) -> CallTimes:
        slots = (one + more for one, more in zip(self.slots, other.slots, strict=True))
        return CallTimes(tuple(slots), self.total_ns + other.total_ns)


NONE = CallTimes((0,) * SLOTS, 0)


def read(fd: int) -> Mapping[CallClass, CallTimes]:
    """Every class, those without a call too."""
    found = {}
    for kind, (*slots, total) in maps.read_words(fd, CallClass).items():
        found[kind] = CallTimes(tuple(slots), total)
    return found
