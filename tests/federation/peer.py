# SPDX-License-Identifier: Apache-2.0
"""Peers for the tests: a small HTTP server that answers as told, and a relay that counts and can be cut."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"


@dataclass
class Seen:
    """A request as the server read it."""

    path: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Seen], bytes]


def answer(body: bytes = b"", status: str = "200 OK", headers: str = "") -> bytes:
    """An HTTP/1.1 answer; each line of ``headers`` ends with CRLF."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


class Server:
    """Answers each request with what ``respond`` makes of it; bytes go out as they are."""

    def __init__(self, respond: Respond, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self._respond = respond
        self._context = context
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):  # the peer may speak something else
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as file:
                while line := file.readline():
                    path = line.split()[1].decode()
                    headers = {}
                    while (line := file.readline().strip()) != b"":
                        name, _, value = line.decode().partition(":")
                        headers[name.lower()] = value.strip()
                    body = file.read(int(headers.get("content-length", "0")))
                    self.seen.append(Seen(path, headers, body))
                    sock.sendall(self._respond(self.seen[-1]))


@dataclass
class Relay:
    """Forwards connections to a port of loopback; counts the bytes of the client and can be cut.

    ``count`` is called with the number of client bytes before they are passed on.
    """

    target: int
    count: Callable[[int], None] = lambda _: None
    port: int = 0
    total: int = 0
    connections: int = 0
    _pairs: list[socket.socket] = field(default_factory=list)
    _listener: socket.socket | None = None

    def open(self) -> None:
        """Listen; on the same port as before if it was open already."""
        listener = socket.create_server((LOOPBACK, self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Stop listening and break every connection."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in self._pairs:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection((LOOPBACK, self.target)) as server,
        ):
            self._pairs += [client, server]
            while True:
                for sock in select.select([client, server], [], [])[0]:
                    data = sock.recv(65536)
                    if not data:
                        return
                    if sock is client:
                        self.total += len(data)
                        self.count(len(data))
                        server.sendall(data)
                    else:
                        with contextlib.suppress(
                            OSError
                        ):  # a client that is gone may have left bytes to count
                            client.sendall(data)
