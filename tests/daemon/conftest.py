# SPDX-License-Identifier: Apache-2.0
"""What the daemon's tests share: one federation for all, and daemons that leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from daemon.federation import Federation, make_federation
from daemon.rig import TRAINER, USERS_EACH, Daemon, users_of
from homebound.apptree import tree_sha256
from homebound.demo.superlink import free_port

MakeDaemon = Callable[[], Daemon]
RECORDS = 23
# All that the federation hears of a round without an update.
NO_UPDATE = {"outcome": "error", "code": 0, "reason": "no update from this device"}


@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink with a run that waits for orders."""
    made = make_federation(tmp_path_factory.mktemp("federation"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count()


@pytest.fixture(scope="module")
def make_daemon(
    federation: Federation, numbers: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeDaemon]:
    """Makes devices that are installed but not started. At the end nothing of them may be left."""
    made: list[Daemon] = []

    def make() -> Daemon:
        daemon = install(tmp_path_factory.mktemp("device"), next(numbers), federation)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.clear()


@pytest.fixture(scope="module")
def running(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A device that runs for all tests of a file, which leave it running."""
    daemon = make_daemon()
    daemon.start()
    daemon.wait_ready()
    yield daemon
    assert daemon.stop().status == 0
    assert daemon.leftovers() == []


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """A device of one test, installed and not started. The test must end it, and nothing may be left."""
    one = make_daemon()
    yield one
    if one.process is not None:
        one.stop()
    assert one.leftovers() == []


def approve(daemon: Daemon) -> None:
    """What lies in the device's app folder now is what its operator wants."""
    daemon.config["app"]["tree_sha256"] = tree_sha256(Path(daemon.config["app"]["path"]))


def install(folder: Path, number: int, federation: Federation) -> Daemon:
    """Data, a copy of the app, and a configuration."""
    base = users_of(os.getpid()) + USERS_EACH * number
    data = folder / "data"
    data.mkdir()
    np.save(data / "numbers.npy", np.arange(RECORDS, dtype=np.float32))
    for path in (data, data / "numbers.npy"):
        os.chown(path, base + TRAINER, base + TRAINER)
        path.chmod(0o500 if path.is_dir() else 0o400)
    config = {
        "name": f"try-{os.getpid()}-{number}",
        "federation": {
            "address": federation.link.address,
            "root_certificates": str(federation.link.root_certificates),
            "poll_seconds": 0.1,
            "retry_max_seconds": 1.0,
        },
        "app": {
            "path": str(federation.app_folder),
            "fab_sha256": federation.app.fab_sha256,
            "tree_sha256": tree_sha256(federation.app_folder),
        },
        "data": {"path": str(data)},
        "trainer": {"preload": []},
        "guard": {"min_examples": RECORDS},
        "metrics": {"port": free_port()},
        "users": {"base": base},
        "paths": {"state": str(folder / "state"), "run": str(folder / "run")},
        "kernel": {"uplink_meter": False},  # test_uplink.py has links of its own
    }
    return Daemon(folder, number, config)
