# SPDX-License-Identifier: Apache-2.0
"""A whole daemon on programs that bcc compiled, with probes of a site: a good one, and one that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from daemon.rig import Daemon
from homebound.kernel import sources

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples/probes"
# Two compilations on a machine that is busy with other tests.
COMPILE_SECONDS = 90.0
COUNTED = "homebound_site_run_queue_seconds_count"


def test_bcc_and_site_probes(daemon: Daemon) -> None:
    """It learns and watches as with libbpf; what the probe sees is on the port; the bad one says why."""
    folder = daemon.folder / "probes.d"
    folder.mkdir(mode=0o755)
    for ending in ("c", "toml"):
        shutil.copy(EXAMPLES / f"run_queue.{ending}", folder)
    (folder / "broken.c").write_text("int x")
    shutil.copy(EXAMPLES / "block_io.toml", folder / "broken.toml")
    daemon.config["loader"] = "bcc"
    daemon.config["paths"]["probes"] = str(folder)
    daemon.start()
    daemon.wait("compiled", lambda s: s["state"] == "waiting", COMPILE_SECONDS)
    status = daemon.wait_ready()
    assert status["loader"] == "bcc"
    lacking = {program["name"]: program for program in status["programs"] if program["reason"]}
    assert {program["need"] for program in lacking.values()} == {"wanted", "off"}
    assert lacking["hb_process_fork"]["reason"] == sources.TYPES_WANTED
    reasons = {state["name"]: state["reason"] for state in status["site_probes"]}
    assert reasons == {"broken": "broken.c names no licence", "run_queue": ""}
    assert [line for line in daemon.lines() if "probe broken is not loaded" in line]
    before = daemon.metrics()
    assert before["homebound_bpf_loader_info loader=bcc"] == 1
    assert before["homebound_site_probe_loaded probe=run_queue"] == 1
    assert before["homebound_site_probe_loaded probe=broken"] == 0
    assert before["homebound_site_series_cut"] == 0
    assert daemon.metrics()[COUNTED] > before[COUNTED] > 0
    assert daemon.stop().status == 0
    assert daemon.leftovers() == []


def test_auto_is_libbpf_here(daemon: Daemon) -> None:
    """The setting's default, on a kernel that the built objects fit, and no folder of probes."""
    daemon.config["paths"]["probes"] = str(daemon.folder / "none")
    daemon.start()
    status = daemon.wait_ready()
    assert (status["loader"], status["site_probes"]) == ("libbpf", [])
    assert daemon.metrics()["homebound_bpf_loader_info loader=libbpf"] == 1
    assert daemon.stop().status == 0
