# SPDX-License-Identifier: Apache-2.0
"""The compiler's child works behind the unit's own walls: with the calls, folders and rights of the unit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system.conftest import ROOT_OF_CLONE, UNIT, put
from system.machine import CLONE, Machine
from system.test_service import leftovers, start, status

pytestmark = pytest.mark.root

DROP_IN = ROOT_OF_CLONE / "examples/probes/homebound.service.d/probes.conf"


FOLDER = "/etc/homebound/probes.d"
EXAMPLES = f"{CLONE}/examples/probes"


@pytest.fixture
def probes(machine: Machine) -> Iterator[Machine]:
    """The machine with the three examples in place."""
    machine.run(f"install -d -m 755 {FOLDER} && install -m 644 {EXAMPLES}/*.c {EXAMPLES}/*.toml {FOLDER}")
    yield machine
    machine.run(f"rm -r {FOLDER}", check=False)


def test_bcc_and_site_probes_under_the_unit(probes: Machine) -> None:
    """All programs that bcc can make, all three examples loaded with the drop-in; nothing is left."""
    put(probes, "/etc/homebound/conf.d/loader.toml", 'loader = "bcc"\n')
    put(probes, f"/etc/systemd/system/{UNIT}.d/probes.conf", DROP_IN.read_text())
    probes.run("systemctl daemon-reload")
    start(probes)
    found = status(probes)
    assert found["loader"] == "bcc"
    assert [
        program for program in found["programs"] if program["reason"] and program["need"] == "required"
    ] == []
    names = ["block_io", "gateway_retransmits", "run_queue"]
    assert [(state["name"], state["reason"]) for state in found["site_probes"]] == [
        (name, "") for name in names
    ]
    probes.run(f"systemctl stop {UNIT}")
    assert leftovers(probes) == ""


def test_without_the_drop_in_tracepoints_say_what_they_lack(probes: Machine) -> None:
    """The unit's filter refuses one call; the probe on the gateway's cgroup does not need it."""
    start(probes)
    reasons = {state["name"]: state["reason"] for state in status(probes)["site_probes"]}
    assert reasons.pop("gateway_retransmits") == ""
    assert sorted(reasons) == ["block_io", "run_queue"]
    assert all("add SystemCallFilter=perf_event_open" in reason for reason in reasons.values())
    assert "site's probe run_queue is not loaded" in probes.journal(UNIT)
