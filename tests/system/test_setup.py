# SPDX-License-Identifier: Apache-2.0
"""packaging/setup/install-debian.sh on a machine: what it installs does not run, neither now nor at boot.

The package is planted and comes from a folder, so that apt-get and dpkg are the real ones and no network is
needed. Its name begins like those of the packages with a service that the script knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conftest import ROOT
from system.conftest import put
from system.machine import CLONE, Machine, boot

pytestmark = pytest.mark.root
NAME = "prometheus-planted"
UNIT = f"{NAME}.service"
CONTROL = f"""Package: {NAME}
Version: 1
Architecture: all
Maintainer: x <x@localhost>
Description: a service that starts by itself
"""
SERVICE = """[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""
# What debhelper writes for a package with a unit.
POSTINST = f"""#!/bin/sh
deb-systemd-helper enable {UNIT}
deb-systemd-invoke start {UNIT} || true
"""
SOURCES = "deb [trusted=yes] file:/srv/planted ./\n"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine whose only source of packages is a folder with one."""
    with boot(binds={str(ROOT): CLONE}) as machine:
        put(machine, "/srv/tree/DEBIAN/control", CONTROL)
        put(machine, "/srv/tree/DEBIAN/postinst", POSTINST)
        put(machine, f"/srv/tree/usr/lib/systemd/system/{UNIT}", SERVICE)
        machine.run(
            "chmod 755 /srv/tree/DEBIAN/postinst && mkdir /srv/planted"
            " && dpkg-deb -b /srv/tree /srv/planted/planted.deb && cd /srv/planted"
            " && { dpkg-deb -f planted.deb; echo Filename: ./planted.deb; stat -c 'Size: %s' planted.deb;"
            ' echo "SHA256: $(sha256sum planted.deb | cut -d" " -f1)"; } >Packages'
            " && rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /usr/sbin/policy-rc.d"
        )
        put(machine, "/etc/apt/sources.list", SOURCES)
        yield machine


def state(machine: Machine) -> tuple[str, str]:
    return (
        machine.run(f"systemctl is-enabled {UNIT}", check=False).stdout.strip(),
        machine.run(f"systemctl is-active {UNIT}", check=False).stdout.strip(),
    )


def test_a_service_that_came_along_is_off(machine: Machine) -> None:
    machine.run(f"{CLONE}/packaging/setup/install-debian.sh {NAME} 2>&1", seconds=100)
    assert machine.out(f"dpkg-query --show --showformat='${{db:Status-Status}}' {NAME}") == "installed"
    assert state(machine) == ("disabled", "inactive")
    assert machine.run("ls /usr/sbin/policy-rc.d", check=False).stdout == ""


def test_apt_alone_would_start_it(machine: Machine) -> None:
    machine.run(f"apt-get update 2>&1 && apt-get install -y {NAME} 2>&1", seconds=100)
    assert state(machine) == ("enabled", "active")
