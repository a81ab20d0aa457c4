# SPDX-License-Identifier: Apache-2.0
"""A real guard process whose three partners are played by the test: supervisor, gateway and trainer."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from homebound import channel, control
from homebound.books import ledger
from homebound.books.chain import Entry
from homebound.channel import Frame, FrameReader
from homebound.records import Array, Record, Records, pack, unpack
from homebound.settings import GuardSettings

# Only so that a broken guard does not hang the tests.
PATIENCE = 30.0
MAX_BODY = 1 << 30


def model(*arrays: Array, name: str = "arrays") -> Records:
    """A record of arrays with the keys k0, k1 and so on."""
    return (Record(name, "arrays", tuple(f"k{i}" for i in range(len(arrays))), arrays),)


def metrics(name: str = "metrics", **values: Any) -> Records:
    """A record of metrics; num_examples stands for num-examples."""
    return (Record(name, "metrics", tuple(key.replace("_", "-") for key in values), tuple(values.values())),)


def zeros(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Noise that is none."""
    return np.zeros(count)


def read(sock: socket.socket) -> Frame:
    """The next frame; ChannelClosed after PATIENCE."""
    sock.settimeout(PATIENCE)
    reader = FrameReader(sock, MAX_BODY)
    while (frame := reader.read_some()) is None:
        pass
    return frame


def write(sock: socket.socket, kind: str, header: dict[str, Any], records: Records | None = None) -> None:
    """Send a frame, with records if there are some."""
    body = b""
    if records is not None:
        header, body = {**header, "records": pack(records)[0]}, pack(records)[1]
    channel.write(sock, Frame(kind, header, body), PATIENCE)


class Rig:
    """One guard and the other ends of its links."""

    def __init__(
        self, process: subprocess.Popen[str], supervisor: socket.socket, gateway: socket.socket
    ) -> None:
        self.process = process
        self.supervisor = supervisor
        self.gateway = gateway
        self.trainers: list[socket.socket] = []
        self.standing: dict[str, Any] = {}

    def tell(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        control.send(self.supervisor, message, fds)

    def hear(self, kind: str) -> dict[str, Any]:
        """The guard's next word to the supervisor, which must be of this type. Where its ledger stands is
        kept, and passed over unless it is asked for."""
        while True:
            self.supervisor.settimeout(PATIENCE)
            message, fds = control.receive(self.supervisor)
            assert not fds
            if message["type"] == "ledger":
                self.standing = message
            if message["type"] != "ledger" or kind == "ledger":
                assert message["type"] == kind, message
                return message

    def trainer(self) -> socket.socket:
        """Hand the guard a trainer that has loaded its app."""
        link = self.unloaded_trainer()
        write(link, "ready", {"facts": {}})
        return link

    def unloaded_trainer(self) -> socket.socket:
        """Hand the guard a trainer that was told to load its app."""
        ours, theirs = socket.socketpair()
        self.tell({"type": "trainer"}, (theirs.fileno(),))
        theirs.close()
        self.trainers.append(ours)
        assert read(ours).kind == "load"
        return ours

    def send_task(self, records: Records, task: str = "t1", kind: str = "train", run: str = "r1") -> None:
        header = {"task": task, "run": run, "round": 1, "message_type": kind, "run_config": {"lr": 0.1}}
        write(self.gateway, "task", header, records)

    def begin(self, records: Records, task: str = "t1", kind: str = "train") -> socket.socket:
        """A trainer that has got a task."""
        link = self.trainer()
        self.send_task(records, task, kind)
        self.hear("started")
        assert read(link).header["task"] == task
        return link

    def refusal(self, code: str, task: str = "t1") -> None:
        """Gateway and supervisor both hear that the task is refused with this code."""
        frame = read(self.gateway)
        assert (frame.kind, frame.header, bytes(frame.body)) == ("refusal", {"task": task, "code": code}, b"")
        told = self.hear("refused")
        assert (told["task"], told["code"]) == (task, code)


@contextmanager
def rig(
    state: Path,
    *,
    timeout: float = PATIENCE,
    warm: bool = True,
    anchor: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Rig]:
    """Start a guard and take its first words; stop it at the end."""
    ours, theirs = control.pair()
    gateway, gateway_end = socket.socketpair()
    document = {
        **dataclasses.asdict(GuardSettings(**settings)), "round_timeout_seconds": timeout, "warm": warm,
    }  # fmt: skip
    if anchor is not None:
        document["anchor"] = anchor
    settings_fd = os.memfd_create("settings")
    os.write(settings_fd, json.dumps(document).encode())
    os.lseek(settings_fd, 0, os.SEEK_SET)
    fds = {"--control": theirs.fileno(), "--gateway": gateway_end.fileno(), "--settings-fd": settings_fd}
    words = [word for name, fd in fds.items() for word in (name, str(fd))]
    command = [sys.executable, "-m", "homebound.guard", *words, "--state", str(state)]
    process = subprocess.Popen(command, pass_fds=tuple(fds.values()), stderr=subprocess.PIPE, text=True)
    theirs.close()
    gateway_end.close()
    os.close(settings_fd)
    guard = Rig(process, ours, gateway)
    try:
        guard.hear("ready")
        if warm:
            guard.hear("trainer_wanted")
        yield guard
    finally:
        process.kill()
        process.communicate()
        for sock in (ours, gateway, *guard.trainers):
            sock.close()


# --- one model and rounds with it

W = np.arange(6, dtype=np.float32).reshape(2, 3)
MODEL = model(W)
HONEST = model(W + np.float32(0.25)) + metrics(num_examples=718)
EXACT: dict[str, Any] = {"clip_norm": 2.0, "noise_multiplier": 0.0, "quantum_bits": 10}
# No limit can hold what has no noise; many updates of the tests say nothing of examples.
EXACT |= {"epsilon_limit": 0.0, "run_epsilon_limit": 0.0, "min_examples": 0}


def entries(state: Path) -> list[Entry]:
    reader = ledger.open_reader(state / ledger.FILE)
    try:
        assert reader.verify() == ()
        return list(reader.entries())
    finally:
        reader.close()


def released(guard: Rig, task: str = "t1") -> dict[str, Any]:
    """The gateway gets the release, the supervisor hears of the same one."""
    frame = read(guard.gateway)
    assert (frame.kind, frame.header["task"]) == ("release", task)
    records = unpack(frame.header["payload"], frame.body)
    assert np.array_equal(records[0].values[0], W + np.float32(0.25))
    told = guard.hear("released")
    assert (told["task"], told["sha256"], told["entry"]) == tuple(
        frame.header[key] for key in ("task", "sha256", "entry")
    )
    return told


def honest_round(guard: Rig, trainer: socket.socket | None = None, task: str = "t2") -> None:
    """With a trainer that is there, or with a new one that the guard asks for."""
    guard.send_task(MODEL, task)
    guard.hear("started")
    if trainer is None:
        guard.hear("trainer_wanted")
        trainer = guard.trainer()
    assert read(trainer).kind == "task"
    write(trainer, "update", {"task": task}, HONEST)
    released(guard, task)
