# SPDX-License-Identifier: Apache-2.0
"""A whole daemon without a federation: what an app does when it is loaded needs none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.rig import Daemon
from homebound.apptree import tree_sha256
from homebound.demo.superlink import free_port
from leaks.trainers import own_data

# Away from the numbers of tests/daemon, which may run at the same time.
BASE = 63600
TRAINER = 3


@contextmanager
def daemon(folder: Path, app: Path, mode: str = "enforce", **trainer: Any) -> Iterator[Daemon]:
    """A device with this app, installed and not started; stopped in the end, and nothing of it may be left.

    The federation's port is closed, so that nothing ever comes or goes.
    """
    data = own_data(folder / "data")
    for path in (data, *data.iterdir()):
        os.chown(path, BASE + TRAINER, BASE + TRAINER)
    config: dict[str, Any] = {
        "name": f"leak-{os.getpid()}",
        "mode": mode,
        "federation": {"address": f"127.0.0.1:{free_port()}", "insecure": True, "retry_max_seconds": 1.0},
        "app": {"path": str(app), "fab_sha256": "0" * 64, "tree_sha256": tree_sha256(app)},
        "data": {"path": str(data)},
        "trainer": {"preload": [], **trainer},
        "metrics": {"port": free_port()},
        "users": {"base": BASE},
        "paths": {"state": str(folder / "state"), "run": str(folder / "run")},
        "kernel": {"uplink_meter": False},  # the links of this machine are left alone
    }
    made = Daemon(folder, 0, config)
    try:
        yield made
        if made.process is not None:
            made.stop()
        assert made.leftovers() == []
    finally:
        made.clear()
