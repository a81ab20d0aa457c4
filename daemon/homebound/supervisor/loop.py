# SPDX-License-Identifier: Apache-2.0
"""The supervisor's loop: descriptors with a step for when they can be read, and steps for when it is time.

One thread; a step runs to its end before the next. Knows nothing of roles. Imports nothing of ours.
"""

from __future__ import annotations

import selectors
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from types import FrameType

Step = Callable[[], None]
Source = int | socket.socket
# How long a turn waits at most when nothing is due.
IDLE_SECONDS = 1.0


class Loop:
    """Watches descriptors and keeps times. ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._due: dict[str, tuple[float, Step]] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def watch(self, source: Source, step: Step) -> None:
        """Run ``step`` whenever ``source`` can be read, until it is forgotten."""
        self._selector.register(source, selectors.EVENT_READ, step)

    def forget(self, source: Source) -> None:
        """Watch it no longer. Nothing happens when it was not watched."""
        if source in self._selector.get_map():
            self._selector.unregister(source)

    def after(self, name: str, seconds: float, step: Step) -> None:
        """Run ``step`` once, ``seconds`` from now; a later call with the same name takes its place."""
        self._due[name] = (self._clock() + seconds, step)

    def move(self, name: str, seconds: float) -> None:
        """Run a step that waits already at another time, ``seconds`` from now."""
        if name in self._due:
            self._due[name] = (self._clock() + seconds, self._due[name][1])

    def cancel(self, name: str) -> None:
        """Do not run it after all. Nothing happens when it does not wait."""
        self._due.pop(name, None)

    def drop_steps(self) -> None:
        """No step that waits for its time is run any more."""
        self._due.clear()

    def is_told(self, signals: Collection[signal.Signals]) -> bool:
        """Whether one of these signals came whose step has not run yet."""
        if self._wakeup is None:
            return False
        try:
            return bool(set(self._wakeup[0].recv(512, socket.MSG_PEEK)) & set(signals))
        except BlockingIOError:
            return False

    def turn(self, seconds: float = IDLE_SECONDS) -> None:
        """Wait for the first thing to happen, at most ``seconds``, and run the steps of all that has."""
        first = min((moment for moment, _ in self._due.values()), default=self._clock() + seconds)
        for key, _ in self._selector.select(max(0.0, min(first - self._clock(), seconds))):
            # A step before may have ended the role that this descriptor belonged to.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        now = self._clock()
        for name in [name for name, (moment, _) in self._due.items() if moment <= now]:
            due = self._due.pop(name, None)
            if due is not None:
                due[1]()

    def on_signals(self, steps: Mapping[signal.Signals, Step]) -> None:
        """Run the step of a signal that comes, between two others. Several of one kind may become one."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno())
        self._wakeup = (reading, writing)

        def woken() -> None:
            # Each signal left its number as a byte. signal.set_wakeup_fd
            for number in sorted(set(reading.recv(512)) & set(steps)):
                steps[signal.Signals(number)]()

        for number in steps:
            signal.signal(number, _wake)
        self.watch(reading, woken)


def _wake(number: int, frame: FrameType | None) -> None:
    """The byte in the wakeup descriptor says it all. signal.set_wakeup_fd"""
    del number, frame
