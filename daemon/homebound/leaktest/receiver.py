# SPDX-License-Identifier: Apache-2.0
"""The outside half of a channel: it listens and says whether the secret token arrived.

Runs outside the sandbox, on loopback, on unix names, on paths and pipes of this process only. The kernel's
own queues hold what arrives until somebody asks, so no thread is needed: the process that listens also forks.
Imports the standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# Bytes read at once; a token has 32.
READ_BYTES = 65536
# Reads before one question is answered: a flood must not keep the asker for ever.
READS_MAX = 1000
BACKLOG = 64


class Receiver(Protocol):
    """One listening receiver."""

    @property
    def place(self) -> Mapping[str, Any]:
        """Where it listens, as the attempt needs it (JSON values only)."""

    def holds(self, token: str, wait_seconds: float = 0.0, /) -> bool:
        """Say whether the token arrived; waits at most so long for it."""


@dataclass(frozen=True)
class Listening:
    """A receiver on sockets and pipes. ``peers``: connections that its listeners accepted."""

    place: Mapping[str, Any]
    listeners: Sequence[socket.socket]
    readers: Sequence[socket.socket | int]
    peers: list[socket.socket] = field(default_factory=list)
    ended: list[socket.socket] = field(default_factory=list)
    arrived: dict[int, bytearray] = field(default_factory=dict)

    def holds(self, token: str, wait_seconds: float = 0.0, /) -> bool:
        """Say whether one peer sent the token, in one piece or in several."""
        wanted = token.encode()
        deadline = time.monotonic() + wait_seconds
        for _ in range(READS_MAX):
            left = max(0.0, deadline - time.monotonic())
            ready = select.select([*self.listeners, *self.readers, *self.peers], [], [], left)[0]
            for file in ready:
                self._take(file)
            if any(wanted in data for data in self.arrived.values()):
                return True
            if not ready:
                return False
        return False

    def _take(self, file: socket.socket | int) -> None:
        if isinstance(file, socket.socket) and file in self.listeners:
            self.peers.append(file.accept()[0])
            return
        fd = file if isinstance(file, int) else file.fileno()
        try:
            data = os.read(fd, READ_BYTES)
        except OSError:
            data = b""  # a datagram socket reports an error of an earlier packet here
        self.arrived.setdefault(fd, bytearray()).extend(data)
        if not data and isinstance(file, socket.socket) and file in self.peers:
            # It stays open until the end, so that its number is not given to another peer.
            self.peers.remove(file)
            self.ended.append(file)


@dataclass(frozen=True)
class Deaf:
    """The receiver of a channel where nothing is ever sent: it cannot hear."""

    place: Mapping[str, Any]

    def holds(self, _token: str, _wait_seconds: float = 0.0) -> bool:
        """Say no: for such a channel the attempt's own word decides."""
        return False


@dataclass(frozen=True)
class Folder:
    """A receiver that looks into every file of one folder."""

    place: Mapping[str, Any]
    path: Path

    def holds(self, token: str, wait_seconds: float = 0.0) -> bool:
        """Say whether a file below the folder holds the token."""
        end = time.monotonic() + wait_seconds
        while not self._found(token.encode()):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def _found(self, wanted: bytes) -> bool:
        return any(wanted in file.read_bytes() for file in self.path.iterdir())


@contextmanager
def listening(
    place: Mapping[str, Any],
    listeners: Sequence[socket.socket] = (),
    readers: Sequence[socket.socket | int] = (),
) -> Iterator[Listening]:
    """Listen until the block ends; closes every socket and descriptor that it was given.

    ``listeners`` accept connections and read them, ``readers`` (datagram and raw sockets, read ends of
    pipes) are read as they are.
    """
    made = Listening(place=place, listeners=listeners, readers=readers)
    try:
        yield made
    finally:
        for file in (*listeners, *readers, *made.peers, *made.ended):
            if isinstance(file, socket.socket):
                file.close()
            else:
                os.close(file)


def bound(
    family: int, kind: int, address: str, listen: bool = False, protocol: int = 0
) -> socket.socket | None:
    """Return an internet socket bound to a free port of an address, None where the kernel has no such."""
    try:
        made = socket.socket(family, kind, protocol)
    except OSError:
        return None
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, 0))
        if listen:
            made.listen(BACKLOG)
    except OSError:
        made.close()
        return None
    return made


def port_of(made: socket.socket | None) -> int:
    """Return the port of a bound socket, 0 when there is none."""
    return int(made.getsockname()[1]) if made else 0
