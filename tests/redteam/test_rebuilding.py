# SPDX-License-Identifier: Apache-2.0
"""A hostile federation against an honest app: special models and searches, with the guard off and on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homebound.settings import GuardSettings
from redteam import rebuilding
from redteam.rebuilding import copy_records, search

SHIPPED = GuardSettings()
CLIP_ONLY = replace(SHIPPED, noise_multiplier=0.0, quantum_bits=32)
TRIALS, STEPS = 50, 200


@pytest.mark.parametrize("disguise", [0.0, 0.05])
def test_an_imprint_copies_records_without_the_guard(disguise: float) -> None:
    found = copy_records(None, 64, disguise)
    print(found)
    assert found.share > 0.5
    assert found.best > rebuilding.SAME_DB


def test_the_plain_imprint_is_refused_before_it_trains() -> None:
    assert copy_records(SHIPPED, 64).refused
    assert copy_records(SHIPPED, 64, disguise=0.02).refused
    assert not copy_records(SHIPPED, 64, disguise=0.05).refused


@pytest.mark.parametrize("disguise", [0.0, 0.05])
@pytest.mark.parametrize("count", [64, 288])
def test_a_disguised_imprint_is_defeated_by_the_noise(count: int, disguise: float) -> None:
    """Further from every record than pictures of other people are."""
    found = copy_records(SHIPPED, count, disguise)
    print(found)
    assert found.share == 0.0
    assert found.best < found.chance


def test_clipping_alone_does_not_defeat_it() -> None:
    """The control: it is the noise."""
    found = copy_records(CLIP_ONLY, 64, disguise=0.05)
    print(found)
    assert found.share > 0.5


def test_searches_find_the_record_without_the_guard() -> None:
    found = search(None, TRIALS, STEPS)
    assert found.labels > 0.9
    assert all(verdict.beats_chance and verdict.psnr > 30 for verdict in found.searches.values())


def test_searches_are_no_better_than_chance_with_the_guard() -> None:
    found = search(SHIPPED, TRIALS, STEPS)
    print({name: f"{verdict.psnr:.1f} dB" for name, verdict in found.searches.items()})
    assert not any(verdict.beats_chance for verdict in found.searches.values())


def test_the_label_of_a_single_record_passes_at_the_shipped_noise() -> None:
    """Said openly: an average over one record shows its class. More noise, or more records, hide it."""
    assert search(SHIPPED, TRIALS, 1).labels > 0.5
    assert search(replace(SHIPPED, noise_multiplier=1.0), TRIALS, 1).labels < 0.3
