# SPDX-License-Identifier: Apache-2.0
"""Control messages keep their borders, carry descriptors, and a broken one ends the link."""

from __future__ import annotations

import os
import signal
import time

import pytest

from homebound import control


def test_messages_keep_their_borders() -> None:
    left, right = control.pair()
    with left, right:
        for number in range(23):
            control.send(left, {"type": "beat", "number": number})
        assert [control.receive(right)[0]["number"] for _ in range(23)] == list(range(23))


def test_a_descriptor_crosses() -> None:
    left, right = control.pair()
    reading, writing = os.pipe()
    with left, right:
        control.send(left, {"type": "trainer"}, [writing])
        os.close(writing)
        message, fds = control.receive(right)
        os.write(fds[0], b"over")
        os.close(fds[0])
        assert (message, os.read(reading, 10)) == ({"type": "trainer"}, b"over")
    os.close(reading)


def test_nothing_there_is_not_the_end() -> None:
    left, right = control.pair()
    with left, right:
        right.setblocking(False)
        with pytest.raises(BlockingIOError):
            control.receive(right)
        left.close()
        with pytest.raises(control.ControlClosed):
            control.receive(right)


@pytest.mark.parametrize("data", [b"[]", b"nonsense", b"{" * 50_000])
def test_what_is_no_message_ends_the_link(data: bytes) -> None:
    left, right = control.pair()
    with left, right:
        left.send(data)
        with pytest.raises(control.ControlClosed):
            control.receive(right)


def test_too_large_a_message_is_not_sent() -> None:
    left, right = control.pair()
    with left, right, pytest.raises(ValueError, match="limit"):
        control.send(left, {"text": "x" * control.MAX_MESSAGE})


def test_sending_to_nobody_says_so() -> None:
    left, right = control.pair()
    right.close()
    with left, pytest.raises(control.ControlClosed):
        control.send(left, {"type": "beat"})


def test_last_words_of_a_process_that_was_killed_are_heard() -> None:
    """It declared much, nobody listened, and it died while it went on: up to its end nothing is lost."""
    ours, theirs = control.pair()
    ours.setblocking(False)
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            control.send(theirs, {"number": number})
            if number == 100:
                time.sleep(60)
            number += 1
    theirs.close()
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = control.last_words(ours)
    assert said == [{"number": number} for number in range(101)]
    assert control.last_words(ours) == []
    ours.close()


def test_last_words_wait_no_longer_than_told_for_a_link_that_stays_open() -> None:
    ours, theirs = control.pair()
    control.send(theirs, {"type": "beat"})
    assert control.last_words(ours, 0.05) == [{"type": "beat"}]
    ours.close()
    theirs.close()
