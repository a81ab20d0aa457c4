# SPDX-License-Identifier: Apache-2.0
"""Words to systemd: ready, what goes on, still alive, reloading, stopping. Silent where nobody listens.

systemd's library is loaded only if the service manager left its socket (NOTIFY_SOCKET), so that a daemon
started by hand needs no systemd. For the supervisor alone: a role in its sandbox cannot reach that socket.
May import: errors. Source: sd_notify(3), systemd.service(5) (Type=notify, WatchdogSec=).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from homebound.errors import ServiceUnavailable

Send = Callable[[str], object]


class Notice:
    """What the service manager hears of us. ``send`` takes lines of sd_notify(3); ``clock`` is monotonic
    seconds."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._status = ""

    def status(self, text: str) -> None:
        """One line for ``systemctl status``. Sent only when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def ready(self, text: str) -> None:
        """All that was asked for runs, or a reload is over."""
        self._status = text
        self._send(f"READY=1\nSTATUS={text}")

    def alive(self, text: str) -> None:
        """Feed the watchdog, and say ``text`` if it is new. To be called only while the watcher is heard: a
        daemon that turns but does not watch is not alive."""
        self._send("WATCHDOG=1")
        self.status(text)

    def reloading(self) -> None:
        """The configuration is being read anew. systemd 253 wants to know since when, in microseconds."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock() * 1e6)}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1\nSTATUS=Stopping")


def connect(environ: Mapping[str, str] = os.environ) -> Notice:
    """To the service manager that started us; to nobody when there is none.

    Raises ServiceUnavailable when one waits for word and cannot be told: it would wait until it gives up.
    """
    if "NOTIFY_SOCKET" not in environ:
        return Notice(lambda _: None)
    try:
        from systemd import daemon  # Debian's python3-systemd; not on every host
    except ImportError:
        raise ServiceUnavailable(
            "systemd waits to hear that we are ready, but its Python library is missing",
            "apt install python3-systemd; homebound's environment must see the system's packages",
        ) from None
    return Notice(daemon.notify)
