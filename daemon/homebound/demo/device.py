# SPDX-License-Identifier: Apache-2.0
"""One device of the demo: a folder with its data and config, and a real daemon started on them.

May import: errors, cli.statusclient, demo.superlink, settings.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homebound.cli import statusclient
from homebound.demo.superlink import WITH_US
from homebound.errors import HomeboundError, NotRunning, ServiceUnavailable
from homebound.settings import UsersSettings

START_SECONDS = 60.0
STOP_SECONDS = 15.0
USERS_EACH = 8


@dataclass(frozen=True)
class Place:
    """Where the federation is and what the operator approved."""

    address: str
    root_certificates: Path | None
    fab_sha256: str


@dataclass
class Device:
    """A device by number. ``folder`` must lie below a folder that every user may enter."""

    number: int
    folder: Path
    port: int
    place: Place
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"demo-{self.number}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def trainer_log(self) -> Path:
        return self.folder / "state" / self.name / "trainer.log"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    def install(self, data: Path) -> None:
        """Take over a data folder: from now on the trainer of this device alone can read it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(data, self.data)
        uid = UsersSettings().base + USERS_EACH * self.number + 3  # events.Role.TRAINER
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, uid, uid)
            path.chmod(0o500 if path.is_dir() else 0o400)

    def start(self, app: Path, tree_sha256: str, node_config: Mapping[str, str | int]) -> None:
        """Start the daemon with this app; it is approved for this device, whatever it does."""
        config = self.folder / "homebound.toml"
        config.write_text(self._config(app, tree_sha256, node_config))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*WITH_US, sys.executable, "-m", "homebound", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _config(self, app: Path, tree_sha256: str, node_config: Mapping[str, str | int]) -> str:
        root = self.place.root_certificates
        lines = [
            f"name = {json.dumps(self.name)}",
            "[federation]",
            f"address = {json.dumps(self.place.address)}",
            f"insecure = {json.dumps(root is None)}",
            f"root_certificates = {json.dumps(str(root) if root else '')}",
            "poll_seconds = 0.5",
            "[app]",
            f"path = {json.dumps(str(app))}",
            f"fab_sha256 = {json.dumps(self.place.fab_sha256)}",
            f"tree_sha256 = {json.dumps(tree_sha256)}",
            "[app.node_config]",
            *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in node_config.items()),
            "[data]",
            f"path = {json.dumps(str(self.data))}",
            "[metrics]",
            f"port = {self.port}",
            "[users]",
            f"base = {UsersSettings().base + USERS_EACH * self.number}",
            "[paths]",
            f"state = {json.dumps(str(self.folder / 'state'))}",
            f"run = {json.dumps(str(self.folder / 'run'))}",
            "[kernel]",
            "uplink_meter = false",  # all of the demo is on loopback; the host's links are left alone
        ]
        return "\n".join(lines) + "\n"

    def status(self) -> dict[str, Any] | None:
        """Its status document; None while it does not answer."""
        try:
            return statusclient.ask(self.folder / "run", self.name)
        except (NotRunning, ServiceUnavailable):
            return None

    def wait_connected(self) -> None:
        """Wait until it waits for tasks. Raises HomeboundError with the last line of its log."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            document = self.status()
            if document and document["federation"]["connected"] and self._trainer_runs(document):
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise HomeboundError(f"device {self.name} did not start", f"read {self.log}")

    @staticmethod
    def _trainer_runs(document: dict[str, Any]) -> bool:
        return bool(document["roles"]["trainer"]["state"] == "running")

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        return status
