# SPDX-License-Identifier: Apache-2.0
"""A process outside that an attempt may reach for: its memory, its descriptors, its signals.

Started by the receivers of trace.py and signals.py as ``python -m homebound.leaktest.victim``, outside of any
sandbox. Says where it is, then answers each line on its input with what came. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The token has 32 characters; four of them fit into the value of a signal (sigqueue(3)).
TOKEN_BYTES = 32
WORD_BYTES = 4
SIGNAL = 40  # a real-time one: these are queued, each with its value (signal(7))
SIG_BLOCK = 0
# struct signalfd_siginfo (signalfd(2)): ssi_int is the twelfth 32-bit word.
SIGINFO_BYTES, VALUE_OFFSET = 128, 44
PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Victim:
    """A receiver: the token arrived if it lies in the victim's memory or came by signals or by its pipe."""

    place: Mapping[str, Any]
    process: subprocess.Popen[str]

    def holds(self, token: str, _wait_seconds: float = 0.0, /) -> bool:
        """Ask the victim. What reaches it is there at once, so there is nothing to wait for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return token in self.process.stdout.readline()


@contextmanager
def victim() -> Iterator[Victim]:
    """Start one, and end it after the block."""
    words = [sys.executable, "-B", "-s", "-m", "homebound.leaktest.victim"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(PACKAGE_ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        try:
            assert process.stdout is not None
            yield Victim(json.loads(process.stdout.readline()), process)
        finally:
            process.kill()


def main() -> None:
    """Say pid, address and descriptor as one line of JSON; then answer lines until there are none."""
    memory = ctypes.create_string_buffer(TOKEN_BYTES)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    mask = ctypes.c_uint64(1 << (SIGNAL - 1))
    signals = ctypes.CDLL(None).signalfd(-1, ctypes.byref(mask), os.O_NONBLOCK | os.O_CLOEXEC)
    place = {"pid": os.getpid(), "address": ctypes.addressof(memory), "victim_fd": writing}
    say(place)
    piped = signalled = b""
    for _ in sys.stdin:
        piped += read_all(reading)
        infos = read_all(signals)
        for start in range(0, len(infos), SIGINFO_BYTES):
            (value,) = struct.unpack_from("=I", infos, start + VALUE_OFFSET)
            signalled += value.to_bytes(WORD_BYTES, "big")
        parts = (memory.raw, piped, signalled)
        say([part.decode("ascii", errors="replace") for part in parts])


def say(document: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def read_all(fd: int) -> bytes:
    """All that is there now."""
    got = b""
    while True:
        try:
            part = os.read(fd, SIGINFO_BYTES * 64)
        except BlockingIOError:
            return got
        if not part:
            return got
        got += part


if __name__ == "__main__":
    main()
