# SPDX-License-Identifier: Apache-2.0
"""The watcher's silence: too long within the promise at any moment, not for a pause of the machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homebound.supervisor.silence import (
    FREEZE_SECONDS,
    LIMIT_SECONDS,
    LOOK_MOST,
    LOOK_SECONDS,
    PROMISED_SECONDS,
    Silence,
)
from homebound.watcher.app import BEAT_SECONDS


def silent_at(silence: Silence, looks: list[float]) -> list[bool]:
    return [silence.look(moment) >= LIMIT_SECONDS for moment in looks]


@given(st.floats(0.0, LOOK_SECONDS))
def test_the_limit_is_reached_in_time_wherever_the_last_word_fell(early: float) -> None:
    """The looks come every half second; the last word came ``early`` before the first of them."""
    silence = Silence()
    silence.broken(100.0)
    looks = [100.0 + early + LOOK_SECONDS * number for number in range(20)]
    first = looks[silent_at(silence, looks).index(True)]
    assert first - 100.0 >= LIMIT_SECONDS - 1e-6
    assert first - 100.0 + FREEZE_SECONDS <= PROMISED_SECONDS + 1e-6


@given(st.lists(st.floats(0.01, BEAT_SECONDS + 2.5), min_size=1, max_size=30))
def test_a_watcher_that_is_up_to_two_and_a_half_seconds_late_is_not_silent(pauses: list[float]) -> None:
    silence, now = Silence(), 0.0
    silence.broken(now)
    for pause in pauses:
        looks = [now + LOOK_SECONDS * number for number in range(1, int(pause / LOOK_SECONDS) + 1)]
        assert not any(silent_at(silence, looks))
        now += pause
        silence.broken(now)


def test_a_pause_of_the_whole_machine_leaves_the_watcher_time_to_speak() -> None:
    silence = Silence()
    silence.broken(0.0)
    assert silence.look(3600.0) == LOOK_MOST
    assert not any(silent_at(silence, [3600.5, 3601.0, 3601.5]))
    # The control: who then stays silent is found all the same.
    assert silent_at(silence, [3601.5 + LOOK_SECONDS * number for number in range(1, 6)])[-1]


def test_a_clock_that_stands_still_or_a_word_in_between_counts_nothing() -> None:
    silence = Silence()
    silence.broken(5.0)
    assert silence.look(4.0) == 0.0
    silence.look(4.5)
    silence.broken(4.5)
    assert silence.seconds == 0.0
