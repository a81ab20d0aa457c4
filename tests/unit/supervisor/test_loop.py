# SPDX-License-Identifier: Apache-2.0
"""The loop: steps run when it is time or something can be read, and never for what was forgotten."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from homebound.supervisor.loop import Loop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_steps_run_in_time_and_once() -> None:
    loop, done = Loop(time.monotonic), []
    loop.after("late", 0.05, lambda: done.append("late"))
    loop.after("now", 0.0, lambda: done.append("now"))
    loop.turn(0.01)
    assert done == ["now"]
    for _ in range(20):
        loop.turn(0.01)
    assert done == ["now", "late"]


def test_a_later_call_of_the_same_name_takes_the_place() -> None:
    loop, done = Loop(time.monotonic), []
    loop.after("one", 0.0, lambda: done.append("first"))
    loop.after("one", 0.0, lambda: done.append("second"))
    loop.turn(0.01)
    assert done == ["second"]


def test_a_descriptor_is_watched_until_it_is_forgotten(pipe: tuple[int, int]) -> None:
    loop, seen = Loop(time.monotonic), []
    loop.watch(pipe[0], lambda: seen.append(os.read(pipe[0], 1)))
    os.write(pipe[1], b"ab")
    loop.turn()
    loop.turn()
    loop.forget(pipe[0])
    os.write(pipe[1], b"c")
    loop.turn(0.01)
    assert seen == [b"a", b"b"]
    loop.forget(pipe[0])


def test_a_step_may_forget_a_neighbour_that_is_due_in_the_same_turn() -> None:
    loop, seen = Loop(time.monotonic), []
    ends = [os.pipe() for _ in range(2)]

    def take(own: int, other: int) -> None:
        seen.append(own)
        loop.forget(other)

    (a, a_writing), (b, b_writing) = ends
    loop.watch(a, lambda: take(a, b))
    loop.watch(b, lambda: take(b, a))
    os.write(a_writing, b"x")
    os.write(b_writing, b"x")
    loop.turn()
    assert len(seen) == 1
    for fd in (a, a_writing, b, b_writing):
        os.close(fd)


def test_nothing_to_do_ends_the_turn_in_its_time() -> None:
    begin = time.monotonic()
    Loop(time.monotonic).turn(0.02)
    assert time.monotonic() - begin < 1.0


def test_a_step_that_waits_is_moved_or_cancelled() -> None:
    loop, done = Loop(time.monotonic), []
    loop.after("moved", 60.0, lambda: done.append("moved"))
    loop.after("cancelled", 0.0, lambda: done.append("cancelled"))
    loop.move("moved", 0.0)
    loop.move("unknown", 0.0)
    loop.cancel("cancelled")
    loop.turn(0.01)
    assert done == ["moved"]


def test_dropped_steps_are_not_run() -> None:
    loop, done = Loop(time.monotonic), list[str]()
    loop.after("dropped", 0.0, lambda: done.append("dropped"))
    loop.drop_steps()
    loop.turn(0.01)
    assert done == []
    assert not loop.is_told({signal.SIGTERM}), "nobody listens for signals here"


def test_each_signal_has_its_step() -> None:
    loop, done = Loop(time.monotonic), list[signal.Signals]()
    wanted = (signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in wanted}
    try:
        loop.on_signals({number: partial(done.append, number) for number in wanted})
        assert not loop.is_told(wanted)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert loop.is_told({signal.SIGUSR2})
        assert not loop.is_told({signal.SIGUSR1})
        loop.turn(0.01)
        assert done == [signal.SIGUSR2]
        assert not loop.is_told(wanted)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.turn(0.01)
        assert done == [signal.SIGUSR2, signal.SIGUSR1]
    finally:
        signal.set_wakeup_fd(-1)
        for end in loop._wakeup or ():
            end.close()
        for number, handler in before.items():
            signal.signal(number, handler)
