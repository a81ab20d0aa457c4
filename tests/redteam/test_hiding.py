# SPDX-License-Identifier: Apache-2.0
"""Each place to hide records in: it works without the guard, and with it a guess is as good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from homebound.guard import bits
from homebound.settings import GuardSettings
from redteam import hiding, timing
from redteam.hiding import CHANNELS, FAILURE, KNOWING, Channel

SHIPPED = GuardSettings()
NAMES = [channel.name for channel in CHANNELS]
# These pass the checks by design, within their bounds.
WITHIN = {"largest weights", "digits of allowed metrics"}
ROUNDS = 40


def remaining(channel: Channel) -> float:
    """Bits of one answer that the bound leaves in this place."""
    if "counter" in channel.name:
        return bits.counters(hiding.start())
    if "metric" in channel.name or "example" in channel.name:
        return sum(bits.metric(name, digits) for name, digits in SHIPPED.metrics.items())
    return bits.weights(hiding.floats(hiding.of(hiding.start(), "arrays")).size, SHIPPED)


@pytest.mark.parametrize("channel", [*CHANNELS, *KNOWING], ids=lambda channel: channel.name)
def test_without_the_guard_the_records_leave(records: Path, channel: Channel) -> None:
    assert hiding.measure(channel, records, None, 3).right > 0.9


@pytest.mark.parametrize("channel", CHANNELS, ids=NAMES)
def test_with_the_guard_a_guess_is_as_good(records: Path, channel: Channel) -> None:
    found = hiding.measure(channel, records, SHIPPED, ROUNDS)
    print(f"{channel.name}: {found.right:.1%} of {channel.bits} bits right, {found.passed:.1f} bits passed")
    if channel.name not in WITHIN:
        # 5 deviations of a coin that is thrown once for each bit and round.
        assert abs(found.right - 0.5) < 5 * 0.5 / (channel.bits * ROUNDS) ** 0.5
    assert found.passed <= remaining(channel)


def test_with_noise_one_even_the_largest_weights_say_nothing(records: Path) -> None:
    loud = replace(SHIPPED, noise_multiplier=1.0)
    (channel,) = [channel for channel in CHANNELS if channel.name == "largest weights"]
    assert hiding.measure(channel, records, loud, ROUNDS).passed < 5
    assert hiding.measure(channel, records, loud, ROUNDS).right < 0.52


@pytest.mark.parametrize("channel", KNOWING, ids=lambda channel: channel.name)
def test_an_app_that_knows_the_guard_stays_below_the_bound(records: Path, channel: Channel) -> None:
    """It does get a few bits out: that is what the bound says, and no more than that."""
    found = hiding.measure(channel, records, SHIPPED, ROUNDS)
    print(f"{channel.name}: {found.right:.1%} right, {found.passed:.1f} bits passed")
    assert 0 < found.passed <= remaining(channel)


def test_a_failure_says_one_bit_and_not_why(records: Path) -> None:
    """The federation sees that there is no update. The text of the error does not get that far."""
    payload = np.array([1, 0, 1], np.uint8)
    assert [hiding.failure_find((), "no" if bit else (), 1)[0] for bit in payload] == payload.tolist()
    off = hiding.measure(FAILURE, records, None, 8)
    assert off.right == 1.0


PAYLOAD = np.array([1, 0, 0, 1, 1, 0, 1, 0], np.uint8)


def test_time_and_refusal_pass_the_guard_and_are_in_the_bound(tmp_path: Path) -> None:
    (tmp_path / "time").mkdir()
    (tmp_path / "refusal").mkdir()
    assert (timing.by_time(tmp_path / "time", PAYLOAD) == PAYLOAD).all()
    assert (timing.by_refusal(tmp_path / "refusal", PAYLOAD) == PAYLOAD).all()
    assert bits.REFUSAL_BITS >= 1
    assert bits.timing(600.0) > 1
