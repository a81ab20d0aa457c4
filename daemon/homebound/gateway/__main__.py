# SPDX-License-Identifier: Apache-2.0
"""Start of the gateway: python -m homebound.gateway --control FD --guard FD --settings-fd FD --state DIR

The settings are JSON: {"federation": {...}, "dial": "192.0.2.1", "port": 8000, "app": {"fab_sha256": "..."},
"max_update_bytes": N}, the first as in the config, ``dial`` the address that the supervisor resolved.
Ends with 0 when told to stop, else with the status of the error, one line on standard error.
May import: control, errors, settings, gateway.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Flower phones out unless told not to; before the first import of it.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"

from homebound import control
from homebound.channel import ChannelClosed
from homebound.errors import HomeboundError
from homebound.gateway import app, node
from homebound.gateway.federation import Federation, endpoint
from homebound.gateway.outbox import Outbox
from homebound.gateway.wire import Line
from homebound.settings import FederationSettings

MAX_UPDATE_BYTES = 536870912


def declaring(supervisor: socket.socket) -> Line:
    """The line whose every byte is told to the supervisor before it leaves."""

    def declare(request: str, count: int, task: str) -> None:
        if count < 0:
            # Announced, then never sent, because the connection broke.
            control.send(supervisor, {"type": "unsent", "stream_bytes": -count, "task": task})
        else:
            control.send(
                supervisor, {"type": "declare", "request": request, "stream_bytes": count, "task": task}
            )

    return Line(declare, supervisor)


def build(arguments: argparse.Namespace) -> app.Gateway:
    """The gateway that the arguments describe. Raises HomeboundError."""
    with os.fdopen(arguments.settings_fd, "rb") as file:
        document: dict[str, Any] = json.load(file)
    settings = FederationSettings(**document["federation"])
    max_update_bytes = int(document.get("max_update_bytes", MAX_UPDATE_BYTES))
    state = Path(arguments.state)
    supervisor = socket.socket(fileno=arguments.control)
    key = node.load_key(Path(settings.node_key)) if settings.node_key else node.own_key(state)
    federation = Federation(
        settings,
        endpoint(settings, document["dial"], int(document["port"])),
        key,
        declaring(supervisor),
        max_task_bytes=max_update_bytes,
    )
    return app.Gateway(
        federation,
        Outbox(state / "outbox"),
        node.Session(state, settings.address),
        app.Links(supervisor, socket.socket(fileno=arguments.guard)),
        app.Terms(
            document["app"]["fab_sha256"], settings.poll_seconds, settings.retry_max_seconds, max_update_bytes
        ),
        time.monotonic,
        random.SystemRandom().random,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the gateway; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m homebound.gateway")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--guard", type=int, required=True)
    parser.add_argument("--settings-fd", type=int, required=True)
    parser.add_argument("--state", required=True)
    # A terminal sends SIGINT, systemd SIGTERM, to all roles; ours is the supervisor's word or its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        build(parser.parse_args(words)).run()
    except ChannelClosed as error:
        return error.exit_status  # the guard ended first; the supervisor says so
    except HomeboundError as error:
        sys.stderr.write(f"homebound: the gateway ends: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
