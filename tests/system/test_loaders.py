# SPDX-License-Identifier: Apache-2.0
"""The compiler's child works behind the unit's own walls: with the calls, folders and rights of the unit."""

from __future__ import annotations

import pytest

from system.conftest import UNIT, put
from system.machine import CLONE, Machine
from system.test_service import leftovers, start, status

pytestmark = pytest.mark.root


def test_bcc_and_site_probes_under_the_unit(machine: Machine) -> None:
    """All programs by bcc, all three examples loaded, also those on tracepoints; nothing is left."""
    put(machine, "/etc/homebound/conf.d/loader.toml", 'loader = "bcc"\n')
    folder = "/etc/homebound/probes.d"
    machine.run(f"install -d -m 755 {folder} && install -m 644 {CLONE}/examples/probes/* {folder}")
    try:
        start(machine)
        found = status(machine)
        assert found["loader"] == "bcc"
        assert [program for program in found["programs"] if program["reason"]] == []
        names = ["block_io", "gateway_retransmits", "run_queue"]
        assert [(state["name"], state["reason"]) for state in found["site_probes"]] == [
            (n, "") for n in names
        ]
        machine.run(f"systemctl stop {UNIT}")
        assert leftovers(machine) == ""
    finally:
        machine.run(f"rm -r {folder}", check=False)
