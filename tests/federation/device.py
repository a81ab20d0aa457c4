# SPDX-License-Identifier: Apache-2.0
"""A device for the tests of the gateway: the real gateway process between a supervisor and a guard of ours.

The guard answers each task in this process. What the gateway tells its supervisor is kept in order, each
message with the time that it came "at", by time.monotonic().
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from homebound import channel, control
from homebound.records import Record, Records, RefusalCode, pack, unpack

Task = Mapping[str, Any]
Answer = Callable[[Task, Records], Records | RefusalCode]
MAX_BODY = 1 << 28


def echo(task: Task, records: Records) -> Records:
    """The model as it came plus a hundredth, and the metrics that Flower's averaging wants."""
    metrics = Record("metrics", "metrics", ("loss", "num-examples"), (0.5, 10))
    if task["message_type"] == "evaluate":
        return (metrics,)
    arrays = next(record for record in records if record.kind == "arrays")
    moved = tuple(value + np.asarray(0.01, value.dtype) for value in arrays.values)
    return (Record("arrays", "arrays", arrays.keys, moved), metrics)


@dataclass
class Device:
    """One gateway process. ``answer`` is what the guard says to a task."""

    state: Path
    settings: Mapping[str, Any]
    answer: Answer = echo
    environment: Mapping[str, str] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the gateway."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._supervisor, control_end = control.pair()
        self._guard, guard_end = socket.socketpair()
        settings_end, writing = os.pipe()
        os.write(writing, json.dumps(self.settings).encode())
        os.close(writing)
        numbers = [control_end.fileno(), guard_end.fileno(), settings_end]
        words = ["--control", str(numbers[0]), "--guard", str(numbers[1]), "--settings-fd", str(numbers[2])]
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-m", "homebound.gateway", *words, "--state", str(self.state)],
            env={"PYTHONPATH": os.environ["PYTHONPATH"], "PATH": "/usr/bin:/bin", **self.environment},
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
        )
        control_end.close()
        guard_end.close()
        os.close(settings_end)
        # Daemons, so that a test that fails ends: with this process the links close, and so does the gateway.
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """Tell it to stop; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            control.send(self._supervisor, {"type": "stop"})
        return self.ended()

    def kill(self) -> int:
        """End it at once, as a crash would."""
        assert self.process is not None
        self.process.kill()
        return self.ended()

    def orphan(self) -> int:
        """Take its supervisor away; its exit status."""
        self._supervisor.shutdown(socket.SHUT_RDWR)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit status."""
        assert self.process is not None
        status: int = self.process.wait(30)
        for thread in self._threads:
            thread.join(30)
        self._supervisor.close()
        self._guard.close()
        return status

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """What was told of one type."""
        return [message for message in list(self.told) if message["type"] == kind]

    def wait_for(self, kind: str, count: int = 1, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait until ``count`` messages of a type were told."""
        deadline = time.monotonic() + seconds
        while len(found := self.of_type(kind)) < count:
            assert time.monotonic() < deadline, f"no {count} x {kind}, only {summary(self.told)}"
            time.sleep(0.02)
        return found

    def declared(self) -> int:
        """All bytes announced, less those taken back."""
        sent: int = sum(message["stream_bytes"] for message in self.of_type("declare"))
        return sent - sum(int(message["stream_bytes"]) for message in self.of_type("unsent"))

    def _listen(self) -> None:
        try:
            while True:
                message = control.receive(self._supervisor)[0]
                self.told.append({**message, "at": time.monotonic()})
        except control.ControlClosed:
            return

    def _judge(self) -> None:
        try:
            while True:
                frame = channel.read(self._guard, MAX_BODY)
                self.tasks.append({**frame.header, "at": time.monotonic()})
                answer = self.answer(frame.header, unpack(frame.header["records"], frame.body))
                task = frame.header["task"]
                if isinstance(answer, RefusalCode):
                    reply = channel.Frame("refusal", {"task": task, "code": str(answer)})
                else:
                    header, body = pack(answer)
                    reply = channel.Frame("release", {"task": task, "payload": header}, body)
                channel.write(self._guard, reply)
        except channel.ChannelClosed:
            return


def summary(told: list[dict[str, Any]]) -> list[str]:
    """What was told but for the declarations, short."""
    return [str({k: str(v)[:40] for k, v in m.items()}) for m in list(told) if m["type"] != "declare"]
