# SPDX-License-Identifier: Apache-2.0
"""Signals that carry a value (sigqueue(3)): four bytes of the token each, to a process outside.

``attempt`` runs inside the sandbox against a process that the receiver started. Imports the standard library
only. Source: signal(7), kill(2), pid_namespaces(7).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.target import Attempt, Target, library_call, try_each
from homebound.leaktest.victim import SIGNAL, WORD_BYTES, Victim, victim

NUMBER = 38
NAME = "signals"
RULES = ()
WALLS = ("namespaces", "users", "landlock")
DELIVERS = True


class _Value(ctypes.Union):
    """union sigval."""

    _fields_ = (("number", ctypes.c_int), ("pointer", ctypes.c_void_p))


def attempt(target: Target) -> Attempt:
    """Queue the token, word by word."""
    pid, data = target.place(NAME)["pid"], target.token.encode()

    def send() -> None:
        for at in range(0, len(data), WORD_BYTES):
            value = _Value()
            value.number = int.from_bytes(data[at : at + WORD_BYTES], "big")
            library_call("sigqueue", ctypes.c_int(pid), ctypes.c_int(SIGNAL), value)

    return try_each({"values": send})


@contextmanager
def receiver(_folder: Path) -> Iterator[Victim]:
    """Start a process that keeps the values of its signals."""
    with victim() as made:
        yield made
