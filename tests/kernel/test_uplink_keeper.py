# SPDX-License-Identifier: Apache-2.0
"""The keeper of the second meter: links that come and go, filters taken off, an end, a killed life.

With the real loop and the real child, in network namespaces of a child's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Program
from homebound.kernel.probes import Probes
from homebound.supervisor.loop import Loop
from homebound.supervisor.uplinks import Uplinks
from kernel import wire
from kernel.rig import Device, in_child

pytestmark = pytest.mark.root

PATIENCE, LEVEL = 60.0, 2
STATE = Program.UPLINK.bpf_name
OFF = {Program.UPLINK: "off by a test"}


def keeper(probes: Probes) -> Uplinks:
    return Uplinks(Loop(time.monotonic), probes, "test")


def until(keep: Uplinks, wanted: Callable[[], bool]) -> None:
    """Turn the loop until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not wanted():
        assert time.monotonic() < deadline, f"it did not become so: {keep.links} {keep.trouble}"
        keep.loop.turn(0.5)


def metered(keep: Uplinks) -> set[str]:
    return {link.name for link in keep.links if link.attached} if not keep.trouble else set()


def filters(link: str = wire.NEAR) -> int:
    words = ["tc", "filter", "show", "dev", link, "egress"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.count("homebound test")


def state(probes: Probes) -> tuple[bool, str]:
    return next((found.attached, found.reason) for found in probes.programs() if found.name == STATE)


def test_links_come_and_go_while_it_runs(device: Device) -> None:
    def scene() -> Any:
        wire.stretch()
        keep = keeper(device.probes)
        keep.start()
        before = state(device.probes)
        until(keep, lambda: metered(keep) == {wire.NEAR})
        told = [before, state(device.probes)]
        wire.ip("link", "add", "hb-more", "type", "veth", "peer", "name", "hb-peer")
        until(keep, lambda: metered(keep) == {wire.NEAR, "hb-more", "hb-peer"})
        assert filters("hb-more") == 1
        wire.ip("link", "delete", "hb-more")
        until(keep, lambda: metered(keep) == {wire.NEAR})
        subprocess.run(["tc", "qdisc", "del", "dev", wire.NEAR, "clsact"], check=True)
        assert filters() == 0
        until(keep, lambda: filters() == 1)
        assert keep.report() == {"type": "uplinks", "found": 1, "metered": 1}
        keep.stop()
        return [*told, filters()]

    assert in_child(scene) == [[False, "not looked yet"], [True, ""], 0]


def test_a_killed_life_is_taken_over(objects: Path, bpf_file_system: Path, device_cgroup: Path) -> None:
    """Killed, its filter stays; the next life replaces it, or takes it off if the settings say so."""
    pins = bpf_file_system / device_cgroup.name

    def live() -> None:
        keep = keeper(Probes.load(objects, device_cgroup, LEVEL, True, pins))
        keep.start()
        until(keep, lambda: metered(keep) == {wire.NEAR})
        os.kill(os.getpid(), signal.SIGKILL)

    def scene() -> Any:
        wire.stretch()
        with pytest.raises(AssertionError, match="without a word"):
            in_child(live)
        left = filters()
        second = Probes.load(objects, device_cgroup, LEVEL, True, pins)
        keep = keeper(second)
        keep.start()
        until(keep, lambda: metered(keep) == {wire.NEAR})
        found: list[Any] = [left, filters(), second.inherited_uplink]
        third = Probes.load(objects, device_cgroup, LEVEL, True, pins, off=OFF)
        keep = keeper(third)
        keep.start()
        until(keep, lambda: not keep.trouble)
        found += [filters(), state(third)]
        keep.stop()
        second.close()
        third.remove()
        return found

    try:
        assert in_child(scene) == [1, 1, True, 0, [False, "off by a test"]]
    finally:
        if pins.exists():
            Probes.load(objects, device_cgroup, LEVEL, True, pins).remove()


def test_without_the_program_nothing_is_started(
    objects: Path, bpf_file_system: Path, device_cgroup: Path
) -> None:
    probes = Probes.load(objects, device_cgroup, LEVEL, True, bpf_file_system / device_cgroup.name, off=OFF)
    try:
        keep = keeper(probes)
        keep.start()
        keep.stop()
        assert (keep.trouble, keep.links) == ("", ())
    finally:
        probes.remove()
