# SPDX-License-Identifier: Apache-2.0
"""One of five devices is poisoned: Flower's robust strategies stand it, a mean does not."""

from __future__ import annotations

import pytest

from bench import robust

ROUNDS = 3


def accuracy(way: str, *, poisoned: bool) -> float:
    return robust.accuracy(way, poisoned=poisoned, guarded=False, seed=1, rounds=ROUNDS)


def test_a_mean_is_lost_to_one_device() -> None:
    """The control: the same device among the same others."""
    assert accuracy("mean", poisoned=False) > 0.9
    assert accuracy("mean", poisoned=True) < 0.3


@pytest.mark.parametrize("way", ["trimmed", "krum"])
def test_a_robust_strategy_stands_a_poisoned_device(way: str) -> None:
    found = accuracy(way, poisoned=True)
    print(f"{way}: {found:.3f}")
    assert found > 0.85
