# SPDX-License-Identifier: Apache-2.0
"""A unix socket with an abstract name (unix(7)): no path, so no mount namespace hides it.

It belongs to the network namespace. ``attempt`` runs inside the sandbox, ``receiver`` outside.
Imports the standard library only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import BACKLOG, Listening, listening
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_each

NUMBER = 20
NAME = "unix_abstract"
RULES = ("socket_unix",)
WALLS = ("seccomp", "namespaces", "landlock")
DELIVERS = True


def attempt(target: Target) -> Attempt:
    """Send the token to the stream socket and to the datagram socket."""
    place = target.place(NAME)
    data = target.token.encode()

    def send(kind: int, name: str) -> None:
        with socket.socket(socket.AF_UNIX, kind) as made:
            made.settimeout(TIMEOUT_SECONDS)
            made.connect("\0" + name)
            made.sendall(data)

    return try_each(
        {
            "stream": lambda: send(socket.SOCK_STREAM, place["stream"]),
            "datagram": lambda: send(socket.SOCK_DGRAM, place["datagram"]),
        }
    )


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Listen on two names that nobody else has."""
    unique = os.urandom(8).hex()
    place = {"stream": f"homebound-leak-{unique}-stream", "datagram": f"homebound-leak-{unique}-datagram"}
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream.bind("\0" + place["stream"])
    stream.listen(BACKLOG)
    datagram.bind("\0" + place["datagram"])
    with listening(place, listeners=[stream], readers=[datagram]) as made:
        yield made
