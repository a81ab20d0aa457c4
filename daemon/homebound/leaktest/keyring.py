# SPDX-License-Identifier: Apache-2.0
"""The kernel's keyrings, and firmware that remembers: keys are in no namespace, and outlive their process.

``attempt`` runs inside the sandbox; the receiver looks for the token among the descriptions of all keys that
root may see. Imports the standard library only. Source: keyrings(7), add_key(2), keyctl(2).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homebound.leaktest.nodes import make_in_each
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, number_of, system_call, try_each

NUMBER = 39
NAME = "keyring"
RULES = ("kernel", "file_outside")
WALLS = ("seccomp",)
DELIVERS = True

KEYS = Path("/proc/keys")
USER_KEYRING = -4  # KEY_SPEC_USER_KEYRING, linux/keyctl.h
SETPERM, SET_TIMEOUT, INVALIDATE = 5, 15, 21
EVERYBODY = 0x3F3F3F3F
# Where firmware keeps what it is told: EFI variables, crash records.
FIRMWARE = ("/sys/firmware/efi/efivars", "/sys/fs/pstore")
LIFE_SECONDS = 5
PREFIX = "homebound-leak-"


def attempt(target: Target) -> Attempt:
    """Name a key by the token and let everybody see it; make a file where firmware keeps them."""
    return try_each(
        {"key": lambda: add(target.token), **make_in_each(target.place(NAME)["firmware"])},
    )


def add(token: str) -> None:
    """Add a key for a few seconds."""
    name = ctypes.c_char_p(f"{PREFIX}{token}".encode())
    kind, payload = ctypes.c_char_p(b"user"), ctypes.c_char_p(b"-")
    keyring = ctypes.c_int(USER_KEYRING)
    key = system_call(number_of("add_key"), kind, name, payload, ctypes.c_size_t(1), keyring)
    control(SETPERM, key, EVERYBODY)
    control(SET_TIMEOUT, key, LIFE_SECONDS)


def control(operation: int, key: int, value: int = 0) -> None:
    """Call keyctl(2)."""
    system_call(number_of("keyctl"), ctypes.c_int(operation), ctypes.c_int(key), ctypes.c_uint(value))


@dataclass(frozen=True)
class Keys:
    """The list of keys that this process may see."""

    place: Mapping[str, Any]
    found: list[int] = field(default_factory=list)

    def holds(self, token: str, wait_seconds: float = 0.0, /) -> bool:
        """Say whether a key has the token in its name."""
        end = time.monotonic() + wait_seconds
        while True:
            for line in KEYS.read_text(encoding="utf-8", errors="replace").splitlines():
                if token in line:
                    self.found.append(int(line.split()[0], 16))
                    return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)


@contextmanager
def receiver(_folder: Path) -> Iterator[Keys | Deaf]:
    """Look at the keys of this host; OSError where the kernel has none."""
    KEYS.read_text(encoding="utf-8", errors="replace")
    made = Keys({"firmware": [], "inside": {"firmware": FIRMWARE}})
    try:
        yield made
    finally:
        for key in made.found:
            with suppress(OSError):
                control(INVALIDATE, key)
