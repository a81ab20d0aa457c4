# SPDX-License-Identifier: Apache-2.0
"""What the leak tests share: a network namespace of their own, and one full leak test in the real sandbox."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from homebound.leaktest.attempts import CHANNELS
from homebound.leaktest.device import device
from homebound.leaktest.run import Report, leaktest
from leaks.network import fresh_network

USERS_BASE = 60600


@pytest.fixture
def network() -> Iterator[None]:
    with fresh_network():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may come through; pytest's own are for root alone, and it sees to that."""
    with tempfile.TemporaryDirectory(prefix="homebound-test-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def report() -> Report:
    """Every channel, tried once in the canary's sandbox; receivers and controls are in a namespace apart."""
    with fresh_network(), device(USERS_BASE) as made:
        return leaktest(CHANNELS, made.launch, made.watch)
