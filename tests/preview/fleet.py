# SPDX-License-Identifier: Apache-2.0
"""A small fleet that works for a while, so that every panel has something to show.

Four real devices in one real federation: two honest, one whose app tries to get out, one in mode observe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from daemon.conftest import install
from daemon.federation import Federation, make_federation
from daemon.rig import Daemon
from dashboards.stack import Prometheus, Receiver, running

SHOWN = ("ward-1", "ward-2", "clinic-7", "lab-4")
LEAKY, OBSERVING = "clinic-7", "lab-4"
NUMBERS_FROM = 60


@dataclass(frozen=True)
class Fleet:
    """Devices by the name that Prometheus knows them by."""

    federation: Federation
    devices: Mapping[str, Daemon]
    prometheus: Prometheus


@contextmanager
def fleet(make_folder: Callable[[str], Path]) -> Iterator[Fleet]:
    """All of it up, scraped every second; gone at the end. ``make_folder`` makes a new one with that name."""
    federation = make_federation(make_folder("federation"))
    devices = {
        name: install(make_folder(name), NUMBERS_FROM + number, federation)
        for number, name in enumerate(SHOWN)
    }
    for device in devices.values():
        device.config["canary"] = {"interval_seconds": 20.0}
        device.config["count_calls"] = True  # else a panel of it has nothing to show
        device.config["kernel"] = {"count_opens": True, "time_calls": True}  # likewise
        device.config["guard"] |= {"epsilon_limit": 4000.0, "run_epsilon_limit": 3000.0}
    devices[OBSERVING].config["mode"] = "observe"
    devices[LEAKY].config["paths"]["probes"] = str(ROOT / "examples/probes")
    ports = {name: device.config["metrics"]["port"] for name, device in devices.items()}
    with ExitStack() as stack:
        federation.start()
        stack.callback(federation.stop)
        for device in devices.values():
            stack.callback(device.clear)
            device.start()
        for device in devices.values():
            device.wait("connected", lambda s: bool(s["federation"]["connected"]), 60)
        prometheus = stack.enter_context(running(make_folder("prometheus"), ports, Receiver()))
        yield Fleet(federation, devices, prometheus)


def work(made: Fleet, seconds: float, choice: random.Random) -> None:
    """Rounds on all devices, some slow, some refused; in the middle of it one app tries to get out."""
    began, leaked = time.monotonic(), False
    nodes = {name: device.node for name, device in made.devices.items()}
    while (passed := time.monotonic() - began) < seconds:
        orders = [
            made.federation.send(node, "hangs", choice.uniform(0.2, 2.0))
            if choice.random() > 0.1
            else made.federation.send(node, "not_finite")
            for node in nodes.values()
        ]
        for order in orders:
            made.federation.reply(order)
        if passed > seconds * 0.6 and not leaked:
            made.federation.ask(nodes[LEAKY], "connects", 23)
            leaked = True
        time.sleep(choice.uniform(0.2, 1.0))
