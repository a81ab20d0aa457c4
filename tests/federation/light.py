# SPDX-License-Identifier: Apache-2.0
"""A device without its walls: the real guard, gateway and trainer as plain processes under this one.

What each role tells is kept in order. For tests of what the roles do together, not of what holds them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homebound import channel, control
from homebound.settings import GuardSettings

MAX_BODY = 1 << 28
# The trainer's own start, with its app where it lies: only behind the walls is it at /app.
TRAINER = """
import sys
from pathlib import Path
from homebound.trainer import __main__ as trainer
trainer.APP_FOLDER = Path(sys.argv.pop(1))
sys.exit(trainer.main())
"""


@dataclass
class LightDevice:
    """``gateway`` is the gateway's settings without max_update_bytes, ``node`` what the app finds there."""

    state: Path
    app: Path
    gateway: Mapping[str, Any]
    guard: GuardSettings
    node: Mapping[str, Any] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    # From now on there is no trainer; see lose_trainer().
    bare: bool = False
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _links: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        for name in ("guard", "gateway"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        outer, inner = channel.pair()
        told = {**dataclasses.asdict(self.guard), "round_timeout_seconds": 120.0, "warm": True}
        self._guard = self._role("guard", told, {"--gateway": inner})
        self._gateway = self._role(
            "gateway", {**self.gateway, "max_update_bytes": MAX_BODY}, {"--guard": outer}
        )
        outer.close()
        inner.close()

    def stop(self) -> None:
        """End all of it; nothing is left when this returns."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(30)
        for link in self._links:
            link.close()

    def lose_trainer(self) -> None:
        """Kill the trainer, and start no other: what waits for one is refused."""
        self.bare = True
        self._trainer.kill()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in list(self.told) if message["type"] == kind]

    def wait_for(self, kind: str, count: int = 1, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until ``count`` messages of a type were told."""
        deadline = time.monotonic() + seconds
        while len(found := self.of_type(kind)) < count:
            assert time.monotonic() < deadline, f"no {count} x {kind} in {self.told[-5:]}"
            time.sleep(0.02)
        return found

    def _role(self, name: str, settings: Mapping[str, Any], links: dict[str, socket.socket]) -> socket.socket:
        ours, theirs = control.pair()
        words = [sys.executable, "-B", "-m", f"homebound.{name}", "--state", str(self.state / name)]
        self._spawn(words, settings, {"--control": theirs, **links})
        theirs.close()
        self._links.append(ours)
        threading.Thread(target=self._listen, args=(ours, name), daemon=True).start()
        return ours

    def _spawn(
        self, words: list[str], settings: Mapping[str, Any], links: Mapping[str, socket.socket]
    ) -> subprocess.Popen[bytes]:
        fd = os.memfd_create("settings")
        os.write(fd, json.dumps(settings).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        numbers = {**{name: link.fileno() for name, link in links.items()}, "--settings-fd": fd}
        words = [*words, *(word for name, number in numbers.items() for word in (name, str(number)))]
        environment = {
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            words, env=environment, pass_fds=[*numbers.values()], stdin=subprocess.DEVNULL
        )
        self._processes.append(process)
        os.close(fd)
        return process

    def _listen(self, link: socket.socket, role: str) -> None:
        with suppress(control.ControlClosed, OSError):
            while True:
                message, _ = control.receive(link)
                if message["type"] == "trainer_failed" or (message["type"] == "trainer_wanted" and self.bare):
                    control.send(link, {"type": "trainer_gone"})
                elif message["type"] == "trainer_wanted":
                    self._start_trainer(link)
                self.told.append({**message, "role": role})

    def _start_trainer(self, guard: socket.socket) -> None:
        ours, theirs = channel.pair()
        settings = {"max_body_bytes": MAX_BODY, "preload": [], "node_config": dict(self.node)}
        words = [sys.executable, "-B", "-c", TRAINER, str(self.app)]
        self._trainer = self._spawn(words, settings, {"--guard": theirs})
        theirs.close()
        control.send(guard, {"type": "trainer"}, [ours.fileno()])
        ours.close()
