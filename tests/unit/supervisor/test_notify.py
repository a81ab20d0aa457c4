# SPDX-License-Identifier: Apache-2.0
"""Words to the service manager, sent to a socket of ours by systemd's own library."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homebound.supervisor import notify


class Listener:
    """A service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def heard(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


def test_a_life(listener: Listener) -> None:
    notice = notify.connect()
    notice.status("Building")
    notice.status("Building")  # not again
    notice.ready("waiting")
    notice.alive("waiting")
    notice.alive("training")
    notice.stopping()
    expected = ["STATUS=Building", "READY=1\nSTATUS=waiting", "WATCHDOG=1", "WATCHDOG=1", "STATUS=training"]
    assert [listener.heard() for _ in expected] == expected
    assert listener.heard() == "STOPPING=1\nSTATUS=Stopping"


def test_reload_says_since_when() -> None:
    sent: list[str] = []
    notify.Notice(sent.append, clock=lambda: 23.5).reloading()
    assert sent == ["RELOADING=1\nMONOTONIC_USEC=23500000"]


def test_nobody_listens() -> None:
    """Without a service manager nothing is sent, and systemd's library is not even loaded."""
    code = (
        "import sys; from homebound.supervisor import notify; notify.connect().ready('x');"
        "print('systemd' in sys.modules)"
    )
    environ = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
