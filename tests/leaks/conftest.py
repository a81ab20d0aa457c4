# SPDX-License-Identifier: Apache-2.0
"""What the leak tests share: a network namespace of their own, and one full leak test in the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def report() -> Report:
    """Every channel, tried once in the canary's sandbox; receivers and controls are in a namespace apart."""
    with fresh_network(), device(USERS_BASE) as made:
        return leaktest(CHANNELS, made.launch, made.watch)
