# SPDX-License-Identifier: Apache-2.0
"""The real trainer in its real sandbox, with a test in the guard's place: any app, any data folder.

An app is written as the body of a function that is called with the message, and may print. Whoever uses this
must be root; nothing is left behind.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import numpy as np

from homebound import channel
from homebound.apptree import tree_sha256
from homebound.channel import Frame
from homebound.events import Role
from homebound.kernel import cgroups, seccomp, spawn
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.sandbox import Identity
from homebound.kernel.spawn import Child, Command
from homebound.leaktest.without import leave_out
from homebound.records import Record, pack
from homebound.rooms import launch, roles
from homebound.rooms.instance import Instance
from homebound.rooms.launch import SECCOMP_FD, Links, memory_file
from homebound.rooms.roles import Spec
from homebound.settings import AppSettings, DataSettings, FederationSettings, Settings, TrainerSettings

USER = Identity(60603, 60603)
LINK_FD, SETTINGS_FD = 5, 4
MAX_BODY = 1 << 20
SECONDS = 60.0
PROJECT = """
[project]
name = "numbers"
version = "1.0.0"
[tool.flwr.app]
publisher = "example"
[tool.flwr.app.components]
clientapp = "{clientapp}"
serverapp = "app:app"
"""
# Says what came of each attempt, a line of its own: NAME and the name of the error, or "through".
APP = """
import errno, os, socket, sys
from flwr.app import ArrayRecord, MetricRecord, RecordDict, Message
from flwr.clientapp import ClientApp

app = ClientApp()

def attempt(name, function):
    try:
        said = function()
        print(name, "through", said if said is not None else "", flush=True)
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno), flush=True)
    except Exception as error:
        print(name, type(error).__name__, flush=True)

@app.train()
def train(message, context):
{body}
    metrics = MetricRecord({{"num-examples": 1}})
    return Message(RecordDict({{"arrays": message.content["arrays"], "metrics": metrics}}), reply_to=message)
"""


@dataclass
class Trainer:
    """One that runs. ``output`` is all that it printed so far."""

    link: socket
    child: Child
    reading: int
    cgroup: Cgroup
    output: str = ""

    def load(self) -> str:
        """Tell it to load the app; the kind of its answer."""
        channel.write(self.link, Frame("load"))
        return self._answer().kind

    def train(self, number: int = 1) -> Frame:
        """Give it a task; its answer."""
        header, body = pack((Record("arrays", "arrays", ("w",), (np.zeros(3, np.float32),)),))
        task = {"task": str(number), "run": "1", "round": number, "message_type": "train", "run_config": {}}
        channel.write(self.link, Frame("task", {**task, "records": header}, body))
        return self._answer()

    def said(self) -> dict[str, str]:
        """What it printed since the last time: the first word of a line -> the rest."""
        before, now = len(self.output), time.monotonic()
        while time.monotonic() - now < 5 and select.select([self.reading], [], [], 0.1)[0]:
            part = os.read(self.reading, 65536)
            if not part:
                break
            self.output += part.decode(errors="replace")
        lines = self.output[before:].splitlines()
        return {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}

    def _answer(self) -> Frame:
        self.link.settimeout(SECONDS)
        try:
            return channel.read(self.link, MAX_BODY)
        except channel.ChannelError as error:
            self.said()
            raise AssertionError(f"{error}: {self.output}") from error


def write_app(folder: Path, body: Sequence[str] = (), clientapp: str = "app:app", **files: str) -> Path:
    """An app whose training runs these lines; ``files`` are others of its folder, with __ for the dot."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(clientapp=clientapp))
    lines = "".join(f"    {line}\n" for line in body)
    (folder / "app.py").write_text(APP.format(body=lines))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def own_data(folder: Path) -> Path:
    """A data folder that the trainer's user can read."""
    folder.mkdir(exist_ok=True)
    (folder / "numbers.csv").write_text("1,2,3\n")
    for path in (folder, folder / "numbers.csv"):
        os.chown(path, USER.uid, USER.gid)
    return folder


@contextmanager
def trainer(app: Path, data: Path, without: Sequence[str] = (), inspected: bool = True) -> Iterator[Trainer]:
    """Start it by the daemon's own launch path and look at its walls; ``without``: walls to leave out."""
    settings = Settings(
        federation=FederationSettings(address="127.0.0.1:9"),
        app=AppSettings(path=str(app), fab_sha256="0" * 64, tree_sha256=tree_sha256(app)),
        data=DataSettings(path=str(data)),
        trainer=TrainerSettings(preload=()),
    )
    mount = cgroups.mount()
    root = Cgroup(mount / f"homebound-trainer-{os.getpid()}", mount)
    instance = Instance(run=Path("/run"), state=Path("/run"), pins=Path("/run"), root=root, home="/")
    cgroup = instance.cgroup(Role.TRAINER)
    ours, theirs = channel.pair()
    reading, writing = os.pipe()
    settings_fd = memory_file(
        {"preload": [], "node_config": {"data-path": "/data"}, "max_body_bytes": MAX_BODY}
    )
    try:
        root.make()
        cgroup.make()
        spec = roles.trainer(settings, USER)
        fds = {1: writing, 2: writing, SETTINGS_FD: settings_fd, LINK_FD: theirs.fileno()}
        links = Links(["--guard", str(LINK_FD), "--settings-fd", str(SETTINGS_FD)], fds)
        child = (
            start_without(instance, spec, links, without) if without else launch.start(instance, spec, links)
        )
        for fd in (writing, settings_fd):
            os.close(fd)
        theirs.close()
        cgroup.thaw()
        if inspected:
            launch.inspect(instance, spec, child, frozenset({LINK_FD}))
        yield Trainer(ours, child, reading, cgroup)
    finally:
        cgroup.kill()
        with suppress(ChildProcessError, NameError):
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)
        ours.close()
        os.close(reading)
        root.remove()


def start_without(instance: Instance, spec: Spec, links: Links, walls: Sequence[str]) -> Child:
    words = launch.command_line(spec, links)
    filter_fd = seccomp.compile_filter(spec.profile)
    try:
        given = {**links.fds, SECCOMP_FD: filter_fd}
        return spawn.spawn(Command(leave_out(words, walls), given), instance.cgroup(spec.role).path)
    finally:
        os.close(filter_fd)
