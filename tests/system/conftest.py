# SPDX-License-Identifier: Apache-2.0
"""A machine with the service of this clone installed, for all tests here; each starts with it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT as ROOT_OF_CLONE
from system.machine import CLONE, Machine, boot

__all__ = ["ROOT_OF_CLONE", "UNIT", "drop_in", "put"]
UNIT = "homebound.service"
# Nobody listens on port 9: the federation is away, which must not keep the daemon from running.
CONFIG = """
[federation]
address = "127.0.0.1:9"
insecure = true
[app]
path = "/srv/app"
{hashes}
[data]
path = "/srv/data"
[trainer]
preload = []
"""


@pytest.fixture(scope="session")
def whole_machine() -> Iterator[Machine]:
    """Users, folders, catalog and unit in place as a package would put them; a good configuration."""
    with boot(clone=True) as machine:
        units = f"{CLONE}/units"
        machine.run(
            f"install -D -m 644 {units}/{UNIT} /usr/lib/systemd/system/{UNIT}"
            f" && install -D -m 644 {units}/homebound.catalog /usr/lib/systemd/catalog/homebound.catalog"
            f" && install -D -m 644 {units}/sysusers.d/homebound.conf /usr/lib/sysusers.d/homebound.conf"
            f" && install -D -m 644 {units}/tmpfiles.d/homebound.conf /usr/lib/tmpfiles.d/homebound.conf"
            " && systemd-sysusers homebound.conf && systemd-tmpfiles --create homebound.conf"
            " && journalctl --update-catalog && systemctl daemon-reload"
            f" && cp -r {CLONE}/examples/digits /srv/app && rm -rf /srv/app/digits/__pycache__"
            " && mkdir /srv/data && echo 1 >/srv/data/file && chown -R homebound-trainer: /srv/data"
        )
        hashes = machine.out("homebound app-hash /srv/app")
        put(machine, "/etc/homebound/homebound.toml", CONFIG.format(hashes=hashes))
        yield machine


@pytest.fixture
def machine(whole_machine: Machine) -> Iterator[Machine]:
    """The machine with the service stopped and without anything a test added to its configuration."""
    yield whole_machine
    whole_machine.run(
        f"systemctl stop {UNIT}; systemctl reset-failed {UNIT}; journalctl --rotate --vacuum-time=1s;"
        f" rm -rf /etc/homebound/conf.d /etc/systemd/system/{UNIT}.d /etc/credstore; systemctl daemon-reload",
        check=False,
    )


def put(machine: Machine, name: str, text: str) -> None:
    """Write a file of the machine."""
    path: Path = machine.path(name)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(text)


def drop_in(machine: Machine, lines: str) -> None:
    """Add lines to the [Service] section of the unit."""
    put(machine, f"/etc/systemd/system/{UNIT}.d/test.conf", f"[Service]\n{lines}\n")
    machine.run("systemctl daemon-reload")
