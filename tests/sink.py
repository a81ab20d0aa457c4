# SPDX-License-Identifier: Apache-2.0
"""Stands where the federation would, takes what comes on any number of connections and counts it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

LOOPBACK = "127.0.0.1"
# A sender that gets nothing through for this long has sent all that it can. The kernel tries a segment again
# after 0.2 s, then half as often each time.
QUIET_SECONDS = 1.0


class Sink:
    """Listens on a free port of loopback from now on. ``bytes`` came up to now."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()
        self._server = socket.create_server((LOOPBACK, 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def settle(self) -> int:
        """What came, once nothing more does."""
        while True:
            before = self.bytes
            time.sleep(QUIET_SECONDS)
            if self.bytes == before:
                return before

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while part := connection.recv(1 << 20):
                with self._lock:
                    self.bytes += len(part)
