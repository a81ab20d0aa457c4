# SPDX-License-Identifier: Apache-2.0
"""A federation whose app never stops trying to get out, and one device that is killed again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daemon.conftest import install
from daemon.federation import Federation, make_federation
from kills.rig import RESTLESS, Killing, Monitor, Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Federation]:
    """A federation whose app is the faulty one and, besides, never rests."""
    folder = tmp_path_factory.mktemp("restless")
    made = make_federation(folder, RESTLESS.replace("{port}", str(receiver.port)))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def killing(
    restless: Federation, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Killing]:
    """Its device. At the end nothing of it may be left."""
    device = install(tmp_path_factory.mktemp("killed"), 0, restless)
    # A run over all points has more rounds than the shipped budget.
    device.config["guard"] |= {"epsilon_limit": 0.0, "run_epsilon_limit": 0.0}
    monitor = Monitor(device.cgroup)
    monitor.start()
    made = Killing(device, receiver, tmp_path_factory.mktemp("plans"), monitor)
    try:
        yield made
    finally:
        if made.squatter is not None:
            made.squatter.process.kill()
        monitor.end()
        device.clear()
