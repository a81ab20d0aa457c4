# SPDX-License-Identifier: Apache-2.0
"""A real Flower SuperLink on loopback for the demo and the tests: start it, start runs, stop all of it.

It phones nowhere, installs nothing, writes only below its own folder; its certificate is made on the spot.
Control has no password in Flower, so it listens on loopback alone.
May import: errors, flwr, cryptography.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homebound.demo.certificate import Certificate, make_certificate
from homebound.errors import ServiceUnavailable

ADDRESS = "127.0.0.1"
START_SECONDS = 60.0
# Words before a command: it is told to stop when whoever started it dies, however that comes. setpriv(1)
WITH_US = ("setpriv", "--pdeathsig", "TERM")
# SIGTERM first, so that it can tell its children; what is still there after this is killed.
STOP_SECONDS = 1.0
# Variables that Flower reads; nothing of the caller's environment but the search path goes further.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # How often it looks for a ServerApp to start (Flower's own: 1 s).
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "LANG": "C.UTF-8",
}

Scalar = str | int | float | bool


@dataclass(frozen=True)
class RunState:
    """Where a run is: Flower's status and sub-status, and its words about a failure."""

    status: str
    outcome: str
    details: str

    @property
    def finished(self) -> bool:
        return self.status == "finished"


@dataclass
class SuperLink:
    """One SuperLink process and all that it starts. ``root_certificates`` is None without TLS."""

    folder: Path
    port: int
    certificate: Certificate | None
    database: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"{ADDRESS}:{self.port}"

    @property
    def root_certificates(self) -> Path | None:
        return None if self.certificate is None else self.certificate.root

    @property
    def log(self) -> Path:
        return self.folder / "superlink.log"

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and wait until it answers. Raises ServiceUnavailable."""
        words = [str(_script("flower-superlink")), "--host", ADDRESS, "--port", str(self.port)]
        if self.certificate is None:
            words.append("--insecure")
        else:
            words += ["--ssl-ca-certfile", str(self.certificate.root)]
            words += ["--ssl-certfile", str(self.certificate.chain)]
            words += ["--ssl-keyfile", str(self.certificate.key)]
        if self.database:
            words += ["--database", str(self.folder / "state.db")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*WITH_US, *words],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while not _listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServiceUnavailable("the SuperLink did not start", f"read {self.log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and every process it started, and wait for them."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End all of it at once, as a crash would."""
        deadline = time.monotonic() + STOP_SECONDS
        while (pids := list(self.pids())) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.poll()
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait()
            self.process = None

    def pids(self) -> Iterator[int]:
        """Its processes, those that it started included: they all have its FLWR_HOME. proc_pid_environ(5)"""
        mark = f"FLWR_HOME={self.folder / 'flwr'}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        home = {"FLWR_HOME": str(self.folder / "flwr"), "HOME": str(self.folder), "TMPDIR": str(self.folder)}
        return {**QUIET, **home, "PATH": path}


def make_superlink(folder: Path, *, tls: bool = True, database: bool = False) -> SuperLink:
    """A SuperLink on a free port, not started yet, that keeps everything below ``folder``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate = make_certificate(folder / "certificate", [ADDRESS, "localhost"]) if tls else None
    return SuperLink(folder, free_port(), certificate, database)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((ADDRESS, 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class App:
    """An app as a run needs it: the bundle that Flower makes of its folder, and its name."""

    bundle: bytes
    fab_sha256: str


def bundle(folder: Path) -> App:
    """Bundle the app in a folder as ``flwr run`` does."""
    from flwr.cli.build import build_fab_from_disk

    content = build_fab_from_disk(folder)
    return App(content, hashlib.sha256(content).hexdigest())


class Operator:
    """Whoever starts runs at a SuperLink: Flower's Control API."""

    def __init__(self, superlink: SuperLink) -> None:
        from flwr.supercore.control.control_http_client import ControlHttpClient

        root = superlink.root_certificates
        self._client = ControlHttpClient.from_server_address(
            superlink.address,
            insecure=root is None,
            root_certificates=None if root is None else root.read_bytes(),
            interceptors=[],
        )

    def start(self, app: App, config: Mapping[str, Scalar]) -> int:
        """Start a run with these overrides of its configuration; its number."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        request = StartRunRequest(
            fab=fab_to_proto(Fab(app.fab_sha256, app.bundle, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        return int(self._client.StartRun(request).run_id)

    def state(self, run: int) -> RunState:
        """Where a run is."""
        status = self._run(run).status
        return RunState(status.status, status.sub_status, status.details)

    def fab_sha256(self, run: int) -> str:
        """How the SuperLink names the app of a run."""
        return str(self._run(run).fab_hash)

    def wait(self, run: int, seconds: float) -> RunState:
        """Wait until a run is finished; where it is then, or after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not (state := self.state(run)).finished and time.monotonic() < deadline:
            time.sleep(0.1)
        return state

    def log(self, run: int) -> str:
        """What the ServerApp of a finished run wrote."""
        from flwr.proto.control_pb2 import StreamLogsRequest

        return "".join(part.log_output for part in self._client.StreamLogs(StreamLogsRequest(run_id=run)))

    def stop(self, run: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        self._client.close()

    def _run(self, run: int) -> Any:
        from flwr.proto.control_pb2 import ListRunsRequest

        return self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict[run]


def _script(name: str) -> Path:
    return Path(sys.executable).parent / name


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((ADDRESS, port)) == 0
