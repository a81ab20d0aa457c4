# SPDX-License-Identifier: Apache-2.0
"""Keeps the second meter on the host's uplinks while links come and go; a child, kernel/uplinks.py, does it.

The kernel's word that a link came or went, or that a filter was taken off, starts a look; one runs at a time,
and the loop goes on turning meanwhile. A look that fails is told, and tried again later. It is wanted, not
required: without it everything runs, and the status says what is not metered.
May import: events, supervisor.loop, kernel. Source: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from homebound.events import Direction, Program, Role, Traffic, TrafficKey, Verdict
from homebound.kernel import maps
from homebound.kernel.probes import Probes
from homebound.supervisor.loop import Loop

# Multicast groups of rtnetlink: links, and traffic control. linux/rtnetlink.h
LINKS, TRAFFIC_CONTROL = 0x1, 0x8
NEW_LINK, DELETE_LINK, DELETE_QDISC, DELETE_FILTER = 16, 17, 37, 45
# A link that comes up says so several times in a row.
PAUSE_SECONDS = 0.2
CHILD_SECONDS = 30.0
# After a look that failed, and as a belt for words of the kernel that were lost.
AGAIN_SECONDS = 600.0
PACKAGE = Path(__file__).parents[1]
NAME, MAP = Program.UPLINK.bpf_name, "uplink"


@dataclass(frozen=True)
class Metered:
    """One uplink, as kernel/uplinks.py tells it."""

    name: str
    attached: bool
    reason: str = ""


@dataclass
class Uplinks:
    """The meter of one device. ``links``: what the last look found; ``trouble``: why it found nothing."""

    loop: Loop
    probes: Probes
    device: str
    links: tuple[Metered, ...] = ()
    trouble: str = "not looked yet"
    _heard: socket.socket | None = None
    _child: subprocess.Popen[bytes] | None = None
    _again: bool = False
    _known: frozenset[str] = field(default_factory=frozenset)

    def start(self) -> None:
        """Look now, and whenever the kernel says that something changed. Without the program, which the
        settings may leave out, only what an earlier life left is taken off."""
        if NAME not in self.probes.unlinked and not self.probes.inherited_uplink:
            self.trouble = ""
            return
        self._tell()
        if NAME in self.probes.unlinked:
            self._heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._heard.setblocking(False)
            self._heard.bind((0, LINKS | TRAFFIC_CONTROL))
            self.loop.watch(self._heard, self._listen)
        self._look()

    def stop(self) -> None:
        """Take the meter off every link. Raises OSError when it cannot be."""
        if self._heard is not None:
            self.loop.forget(self._heard)
            self._heard.close()
            self._heard = None
        self.loop.cancel("uplinks")
        if self._child is not None:
            self._child.kill()
            self._end(self._child)
        if not self.links and not self.trouble:
            return
        try:
            done = subprocess.run(
                self._words("remove"),
                env=_environment(),
                stdout=subprocess.PIPE,
                timeout=CHILD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError("taking the meter off the uplinks takes too long") from error
        left = [entry.name for entry in _read(done.stdout) if entry.attached]
        if done.returncode or left:
            raise OSError(f"the meter stays on {', '.join(left) or 'the uplinks'}")

    def document(self, first: Mapping[TrafficKey, Traffic], mode: str) -> dict[str, Any]:
        """For the status: the links, and by role what left through them and how that differs from what the
        first meter counted. Above 0 left by a way that the first does not see; below 0 went over loopback."""
        roles = {}
        if MAP in self.probes.maps:
            second = maps.read_traffic(self.probes.map_fd(MAP))
            for role in Role:
                size = _sent(second, role, mode)
                roles[role.label] = {"bytes": size, "difference": size - _sent(first, role, mode)}
        return {"trouble": self.trouble, "links": [asdict(link) for link in self.links], "roles": roles}

    def report(self) -> dict[str, Any]:
        """For the watcher, which has no right to look at links."""
        metered = sum(link.attached for link in self.links)
        return {"type": "uplinks", "found": len(self.links), "metered": metered}

    def _listen(self) -> None:
        """Take all that the kernel said; look if a link came or went, or a filter was taken off."""
        assert self._heard is not None
        kinds: set[int] = set()
        try:
            while True:
                kinds.update(_kinds(self._heard.recv(65536)))
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: words were lost
            kinds.add(DELETE_FILTER)
        is_news = bool(kinds & {NEW_LINK, DELETE_LINK}) and _present() != self._known
        if is_news or kinds & {DELETE_QDISC, DELETE_FILTER}:
            self.loop.after("uplinks", PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        self._again = self._child is not None
        if self._child is not None:
            return
        self._known = _present()
        child = subprocess.Popen(
            self._words("attach" if self._heard else "remove"),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._child, output, parts = child, child.stdout, list[bytes]()
        assert output is not None

        def take() -> None:
            part = output.read(65536)
            parts.append(part)
            if not part:
                self._finish(child, output, b"".join(parts))

        self.loop.watch(output.fileno(), take)
        self.loop.after("uplinks child", CHILD_SECONDS, child.kill)

    def _finish(self, child: subprocess.Popen[bytes], output: IO[bytes], text: bytes) -> None:
        status = self._end(child)
        self.links = tuple(link for link in _read(text) if self._heard or link.attached)
        self.trouble = "" if status == 0 else f"the look at the links ended with {status}"
        self._tell()
        if self._heard or self.trouble:
            self.loop.after("uplinks", PAUSE_SECONDS if self._again else AGAIN_SECONDS, self._look)

    def _end(self, child: subprocess.Popen[bytes]) -> int:
        """Unhook a child that has said all, or that has had its time."""
        self.loop.cancel("uplinks child")
        if child.stdout is not None and not child.stdout.closed:
            self.loop.forget(child.stdout.fileno())
            child.stdout.close()
        try:
            status = child.wait(1.0)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        self._child = None
        return status

    def _problems(self) -> list[str]:
        unmetered = [f"{link.name} is not metered: {link.reason}" for link in self.links if not link.attached]
        return [self.trouble] if self.trouble else unmetered

    def _tell(self) -> None:
        """The program is attached when it is on every uplink."""
        self.probes.elsewhere[NAME] = "; ".join(self._problems())

    def _words(self, verb: str) -> list[str]:
        words = [sys.executable, "-s", "-P", "-m", "homebound.kernel.uplinks", verb]
        words += ["--name", f"homebound {self.device}"]
        return [*words, "--pins", str(self.probes.pins)] if verb == "attach" else words


def _environment() -> dict[str, str]:
    """The package by name, since -P keeps the working folder off the path; and nothing else of ours."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    return {"PATH": os.defpath, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}


def _sent(cells: Mapping[TrafficKey, Traffic], role: Role, mode: str) -> int:
    """IP bytes that left the role; in observe mode those denied left, too."""
    return sum(
        cell.bytes
        for key, cell in cells.items()
        if key.role is role
        and key.direction is Direction.TRANSMIT
        and (key.verdict is Verdict.ALLOWED or mode == "observe")
    )


def _present() -> frozenset[str]:
    return frozenset(f"{index}:{name}" for index, name in socket.if_nameindex())


def _kinds(datagram: bytes) -> Iterator[int]:
    """Types of the messages in one datagram: struct nlmsghdr is length, type, flags, sequence, port."""
    at = 0
    while at + 16 <= len(datagram):
        length, kind = struct.unpack_from("=IH", datagram, at)
        yield kind
        at += max(16, (length + 3) & ~3)


def _read(text: bytes) -> tuple[Metered, ...]:
    """What the child said; nothing when it said nothing that makes sense."""
    try:
        found: Sequence[dict[str, Any]] = json.loads(text)
        return tuple(Metered(str(e["name"]), e["attached"] is True, str(e["reason"])) for e in found)
    except (ValueError, TypeError, KeyError):
        return ()
