# SPDX-License-Identifier: Apache-2.0
"""What kernel tests stand on: children in a cgroup or a network of their own, and a device to ask.

Traffic stays in network namespaces that a child makes for itself. Children report by JSON through a pipe;
an assertion that fails in one fails the test.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Event, Role, Rule, Traffic, TrafficKey
from homebound.kernel import maps
from homebound.kernel.probes import Probes
from homebound.kernel.sources import TYPES_WANTED

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PR_SET_DUMPABLE = 4


def in_child(function: Callable[[], Any], cgroup: Path | None = None) -> Any:
    """Run ``function`` in a forked child, moved to ``cgroup`` first, and return its (JSON) result."""
    with child(function, cgroup) as result:
        return result()


@contextmanager
def child(function: Callable[[], Any], cgroup: Path | None = None) -> Iterator[Callable[[], Any]]:
    """The same beside the test: call what is yielded to wait for the result. Killed at the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _report(function, cgroup, writing)
    os.close(writing)
    reaped = False

    def result() -> Any:
        nonlocal reaped
        with os.fdopen(os.dup(reading), "rb") as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        reaped = True
        assert text, "the child ended without a word"
        answer = json.loads(text)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    try:
        yield result
    finally:
        os.close(reading)
        if not reaped:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _report(function: Callable[[], Any], cgroup: Path | None, writing: int) -> None:
    try:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text("0")
        answer = {"result": function()}
    except BaseException:  # noqa: BLE001 (whatever it is, the test must hear of it)
        answer = {"error": traceback.format_exc()}
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def in_fresh_network(function: Callable[[], Any]) -> Any:
    """Run ``function`` in a child that has a network namespace of its own, with loopback up."""

    def alone() -> Any:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[1]
            fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
        return function()

    return in_child(alone)


@dataclass(frozen=True)
class Device:
    """A root cgroup below which every role has one, and the programs on it."""

    cgroup: Path
    pins: Path
    probes: Probes
    stream: maps.EventStream
    before: Mapping[tuple[Role, Rule], int] = field(default_factory=dict)

    def of(self, role: Role) -> Path:
        """The cgroup of a role; NONE: one below the root that has no role."""
        return self.cgroup / role.label

    def run(self, role: Role, function: Callable[[], Any]) -> Any:
        """Run ``function`` as a role."""
        return in_child(function, self.of(role))

    def denied(self) -> dict[tuple[Role, Rule], int]:
        """The counts that are not zero, less those of ``before``."""
        counts = maps.read_denied(self.probes.map_fd("denied"))
        return {key: n for key, count in counts.items() if (n := count - self.before.get(key, 0))}

    def traffic(self) -> dict[TrafficKey, Traffic]:
        """The cells that are not zero."""
        cells = maps.read_traffic(self.probes.map_fd("traffic"))
        return {key: cell for key, cell in cells.items() if cell.packets}

    def activity(self) -> list[Event]:
        """All that was told since the last call, forks and exits too."""
        return self.stream.poll(0)

    def events(self) -> list[Event]:
        """What was told against a rule since the last call."""
        return [event for event in self.activity() if event.rule is not None]

    def told(self) -> dict[tuple[Role, Rule], int]:
        """The same as counts, in the form of ``denied``."""
        events = self.events()
        return dict(Counter((event.role, event.rule) for event in events if event.rule is not None))


def look_at_child() -> None:
    """Ask for its namespaces, which is to read and not to attach (mode PTRACE_MODE_READ). Raises OSError."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)  # whoever became another user may be looked at by nobody
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        os.stat(f"/proc/{pid}/ns/net")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def with_map(device: Device, name: str) -> Device:
    """The same device; the test is skipped where its loader cannot make this map."""
    if name not in device.probes.maps:
        pytest.skip(f"{device.probes.loader}: {TYPES_WANTED}")
    return device


def unattached(probes: Probes) -> dict[str, str]:
    """The reason of each program that is not attached, but for those that bcc cannot compile right, and those
    on security hooks, which test_lsm.py tries on kernels that have them."""
    return {
        state.name: state.reason
        for state in probes.programs()
        if not (state.attached or state.name.startswith("hb_lsm_"))
        and (probes.loader, state.reason) != ("bcc", TYPES_WANTED)
    }


def remove_cgroup(root: Path) -> None:
    """Kill what is in it and remove it with all below."""
    (root / "cgroup.kill").write_text("1")
    for _ in range(100):
        if "populated 0" in (root / "cgroup.events").read_text():
            break
        time.sleep(0.02)
    for folder in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        if folder.is_dir():
            folder.rmdir()
    root.rmdir()
