# SPDX-License-Identifier: Apache-2.0
"""A real SuperLink with one run whose server part sends what a test orders, message by message."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from homebound.demo.certificate import make_certificate
from homebound.demo.superlink import ADDRESS, App, Operator, SuperLink, bundle, free_port

START_SECONDS = 60.0
APP = Path(__file__).parent / "app"


@dataclass
class Federation:
    """Started by start(), ended by stop(). ``app`` is what a device must approve."""

    folder: Path
    link: SuperLink
    app: App
    app_folder: Path
    numbers: count[int] = field(default_factory=count)
    rounds: count[int] = field(default_factory=lambda: count(1))

    runs: count[int] = field(default_factory=count)

    def start(self) -> None:
        """Start SuperLink and run, and wait for the server part."""
        self.link.start()
        self.operator = Operator(self.link)
        self.begin()

    def begin(self) -> None:
        """A run, with another folder of orders than those before it."""
        self.orders = self.folder / f"orders-{next(self.runs)}"
        self.orders.mkdir()
        self.run = self.operator.start(self.app, {"orders": str(self.orders)})
        deadline = time.monotonic() + START_SECONDS
        while not (self.orders / "ready").exists():
            assert time.monotonic() < deadline, self.operator.state(self.run)
            time.sleep(0.05)

    def stop(self) -> None:
        (self.orders / "end").touch()
        self.operator.close()
        self.link.stop()

    def send(self, node: int, behaviour: str = "honest", amount: float = 0.0, seconds: float = 60.0) -> str:
        """Order one message to a device; what to ask for() the reply by."""
        name = f"{next(self.numbers):06}"
        words = {
            "node": node,
            "behaviour": behaviour,
            "amount": amount,
            "round": next(self.rounds),
            "seconds": seconds,
        }
        part = self.orders / f"{name}.new"
        part.write_text(json.dumps(words))
        part.rename(self.orders / f"{name}.order")
        return name

    def reply(self, name: str, seconds: float = 60.0) -> dict[str, Any]:
        """What came of an order."""
        path = self.orders / f"{name}.reply"
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, f"no reply to {name} in {seconds:g} s"
            time.sleep(0.01)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def has_reply(self, name: str) -> bool:
        """Whether anything came of an order yet."""
        return (self.orders / f"{name}.reply").exists()

    def ask(self, node: int, behaviour: str = "honest", amount: float = 0.0) -> dict[str, Any]:
        """Order, and wait for the reply."""
        return self.reply(self.send(node, behaviour, amount))


def make_federation(folder: Path, more: str = "") -> Federation:
    """A SuperLink with TLS for every name of loopback, and the faulty app in ``folder``.

    ``more``: lines of Python that the device's part runs when it is loaded.
    """
    app_folder = folder / "app"
    shutil.copytree(APP, app_folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(app_folder / "faulty/client_app.py", "a", encoding="utf-8") as file:
        file.write(more)
    certificate = make_certificate(folder / "certificate", [ADDRESS, "localhost", "::1"])
    superlink = folder / "superlink"
    superlink.mkdir()
    return Federation(folder, SuperLink(superlink, free_port(), certificate), bundle(app_folder), app_folder)
