# SPDX-License-Identifier: Apache-2.0
"""The second half of the demo: one device gets an app that tries a dozen ways out, with receivers that wait.

May import: demo.device, events, leaktest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from homebound.apptree import tree_sha256
from homebound.demo.device import Device
from homebound.events import Rule
from homebound.leaktest.attempts import channel_named
from homebound.leaktest.judge import Denial, Outcome
from homebound.leaktest.run import TOKEN_BYTES, Tried, conclude, receivers
from homebound.supervisor.roster import LINK_FD

# A dozen that a person knows by name; `homebound leaktest` tries the rest.
DOZEN = (
    *("tcp", "udp", "dns", "mapped", "icmp", "packet", "vsock"),
    *("unix_path", "unix_abstract", "io_uring", "file_outside", "foreign_fd"),
)
PREFIX = "homebound-leak "
# What is on its way through loopback or the ring buffer is there long before.
GRACE_SECONDS = 1.0


def leak(
    device: Device, app: Path, start_run: Callable[[], None]
) -> tuple[Sequence[Outcome], dict[str, Any]]:
    """Swap the device's app for the leaky one, let ``start_run`` run it, and judge; outcomes and status.

    The daemon is left running, so that its metrics can be looked at.
    """
    token = os.urandom(TOKEN_BYTES).hex()
    channels = tuple(channel_named(name) for name in DOZEN)
    with receivers(channels) as heard:
        target = heard.target(token, links=[LINK_FD]).to_json()
        device.stop()
        device.start(app, tree_sha256(app), {"leak-target": target})
        device.wait_connected()
        start_run()
        time.sleep(GRACE_SECONDS)
        status = device.status()
        assert status is not None
        tried = Tried(
            token=token,
            lines=device.trainer_log.read_text(errors="replace").splitlines(),
            denials=_denials(status["denied_recent"]),
            deltas=_deltas(status["denied"].get("trainer", {})),
            prefix=PREFIX,
        )
        return conclude(channels, heard, tried).channels, status


def _denials(events: Sequence[Mapping[str, Any]]) -> list[Denial]:
    """The trainer's events, back on the monotonic clock by which the attempts noted their times."""
    offset = time.time() - time.monotonic()
    return [
        Denial(int((event["time"] - offset) * 1e9), Rule[str(event["rule"]).upper()])
        for event in events
        if event["role"] == "trainer"
    ]


def _deltas(denied: Mapping[str, int]) -> dict[Rule, int]:
    """The daemon is fresh, so its counts are the difference."""
    return {Rule[name.upper()]: count for name, count in denied.items()}
