# SPDX-License-Identifier: Apache-2.0
"""How the gateways of these tests begin; it lies beside them as ``homebound.gateway.opening``."""

from __future__ import annotations

import argparse
import json
import os
import socket
from dataclasses import dataclass

from homebound import control


@dataclass(frozen=True)
class Opening:
    """The links, as the supervisor gave them, and where the federation is."""

    supervisor: socket.socket
    guard: int
    place: tuple[str, int]


def begin() -> Opening:
    """Take what a gateway is given, and say that it is connected."""
    parser = argparse.ArgumentParser()
    for name in ("--control", "--guard", "--settings-fd"):
        parser.add_argument(name, type=int)
    parser.add_argument("--state")
    given = parser.parse_args()
    with os.fdopen(given.settings_fd) as file:
        settings = json.load(file)
    supervisor = socket.socket(fileno=given.control)
    control.send(supervisor, {"type": "ready"})
    control.send(supervisor, {"type": "connected", "node": "1"})
    return Opening(supervisor, given.guard, (settings["dial"], settings["port"]))
