# SPDX-License-Identifier: Apache-2.0
"""Doors into the kernel itself: bpf(2), perf_event_open(2), userfaultfd(2), its memory as a file.

What is asked for does nothing when it is given: an empty map, a clock counter, a descriptor. Modules and
kexec stand behind the same filter and are not asked for outside. ``attempt`` runs inside the sandbox.
Standard library.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, number_of, system_call, try_each

NUMBER = 43
NAME = "kernel_doors"
RULES = ("kernel", "trace", "file_outside")
WALLS = ("seccomp", "users")
DELIVERS = False

BPF_MAP_CREATE, MAP_ARRAY = 0, 2  # linux/bpf.h
MAP_ATTRIBUTES = struct.pack("=5I", MAP_ARRAY, 4, 4, 1, 0).ljust(72, b"\0")
# struct perf_event_attr, version 0: a software event (1), 64 bytes, the processor's clock (0); disabled.
PERF_ATTRIBUTES = struct.pack("=IIQQQQQ", 1, 64, 0, 0, 0, 0, 1).ljust(64, b"\0")
KERNEL_MEMORY = "/proc/kcore"


def attempt(_target: Target) -> Attempt:
    """Knock at each."""

    def make_map() -> None:
        size = ctypes.c_uint(len(MAP_ATTRIBUTES))
        memory = ctypes.create_string_buffer(MAP_ATTRIBUTES, len(MAP_ATTRIBUTES))
        os.close(system_call(number_of("bpf"), ctypes.c_int(BPF_MAP_CREATE), memory, size))

    def count() -> None:
        memory = ctypes.create_string_buffer(PERF_ATTRIBUTES, len(PERF_ATTRIBUTES))
        whom = (ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_ulong(0))
        os.close(system_call(number_of("perf_event_open"), memory, *whom))

    def fault() -> None:
        os.close(system_call(number_of("userfaultfd"), ctypes.c_int(os.O_CLOEXEC)))

    def read() -> None:
        os.close(os.open(KERNEL_MEMORY, os.O_RDONLY))

    return try_each({"bpf": make_map, "perf_event_open": count, "userfaultfd": fault, "kcore": read})


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Give a receiver that hears nothing."""
    yield Deaf(place={})
