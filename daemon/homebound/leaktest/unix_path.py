# SPDX-License-Identifier: Apache-2.0
"""A unix socket with a path: the way to every local service, such as D-Bus, resolvers and container engines.

``attempt`` runs inside the sandbox, ``receiver`` plays the service outside: its socket and its folder are
open to every user. Imports the standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import BACKLOG, Listening, listening
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_each

NUMBER = 18
NAME = "unix_path"
RULES = ("socket_unix",)
WALLS = ("seccomp", "namespaces")
DELIVERS = True


def attempt(target: Target) -> Attempt:
    """Send the token to the stream socket and to the datagram socket."""
    place = target.place(NAME)
    data = target.token.encode()

    def send(kind: int, path: str) -> None:
        with socket.socket(socket.AF_UNIX, kind) as made:
            made.settimeout(TIMEOUT_SECONDS)
            made.connect(path)
            made.sendall(data)

    return try_each(
        {
            "stream": lambda: send(socket.SOCK_STREAM, place["stream"]),
            "datagram": lambda: send(socket.SOCK_DGRAM, place["datagram"]),
        }
    )


@contextmanager
def receiver(folder: Path) -> Iterator[Listening]:
    """Listen on two sockets in a folder that everybody may enter."""
    place = {kind: str(folder / kind) for kind in ("stream", "datagram")}
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream.bind(place["stream"])
    stream.listen(BACKLOG)
    datagram.bind(place["datagram"])
    try:
        for path in place.values():
            Path(path).chmod(0o666)
        with listening(place, listeners=[stream], readers=[datagram]) as made:
            yield made
    finally:
        for path in place.values():
            Path(path).unlink()
