# SPDX-License-Identifier: Apache-2.0
"""A gateway in the hands of an attacker gets no more out than its credit, and the operator is told."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from conftest import ROOT
from daemon.federation import Federation
from daemon.rig import Daemon, until
from homebound.books import accounts
from homebound.rooms import granting
from sink import LOOPBACK, Sink

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
POLL_SECONDS, SECONDS = 1.0, 8.0
HERE = Path(__file__).parent


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package with another gateway in it; the next daemon is started from there."""
    package = tmp_path / "homebound"
    shutil.copytree(ROOT / "daemon/homebound", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "taken_gateway.py", package / "gateway/__main__.py")
    shutil.copy(HERE / "gateway_opening.py", package / "gateway/opening.py")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and str(path).startswith("/tmp/"):
            path.chmod(path.stat().st_mode | 0o011)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return package


def test_a_taken_gateway_gets_no_more_out_than_its_credit(daemon: Daemon, taken: Path) -> None:
    sink = Sink()
    daemon.config["federation"] = {
        "address": f"{LOOPBACK}:{sink.port}",
        "insecure": True,
        "poll_seconds": POLL_SECONDS,
    }
    began = time.monotonic()
    daemon.start()
    daemon.wait("the budget spent", lambda s: "budget" in s["refused"])
    time.sleep(SECONDS)
    out = sink.bytes
    elapsed = time.monotonic() - began
    found = daemon.wait("status", lambda _: True)
    credit = found["credit"]
    allowance = granting.BURST_BYTES + granting.rate(POLL_SECONDS) * elapsed
    granted = credit["guard"] + credit["supervisor"]
    released = found["released"]
    print(
        f"{out} bytes out in {elapsed:.0f} s; allowance {allowance:.0f}, granted {granted} for "
        f"{released['updates']} releases of {released['payload_bytes']} bytes, used {credit['used']}"
    )
    assert credit["used"] <= granted
    assert out <= allowance + granted
    # What is granted follows from what was released, however often the gateway says that its link broke.
    each = accounts.wire_bytes(released["payload_bytes"] // released["updates"], 1)
    assert granted <= (1 + granting.AGAIN) * (released["updates"] + 1) * each
    # The control: it was the credit that held it. Loopback takes this in a moment.
    assert out > granting.BURST_BYTES / 2
    assert found["denied"]["gateway"]["credit"] > 0
    assert {entry["rule"] for entry in found["violations"]} >= {"credit"}
    count = "homebound_violations_total role=gateway rule=credit"
    until("the metric", lambda: daemon.metrics()[count] > 0, 10.0)
    assert any("tried credit" in line for line in daemon.lines())
    daemon.stop()


LAST_WORDS = 4211
QUIET = "books: 0 bytes left the gateway, 0 declared, 0 released, 0 unexplained"


def test_what_leaves_while_it_stops_is_accounted_for(daemon: Daemon, taken: Path) -> None:
    """Within its credit, after the watcher's last look: the books are closed once more at the end."""
    (taken / "gateway/__main__.py").write_text(FAREWELL)
    minutely = taken / "supervisor/reconciling.py"
    minutely.write_text(minutely.read_text().replace("EVERY_SECONDS = 60.0", "EVERY_SECONDS = 0.2"))
    sink = Sink()
    daemon.config["federation"] = {"address": f"{LOOPBACK}:{sink.port}", "insecure": True}
    daemon.start()
    daemon.wait("it", lambda s: bool(s["federation"]["connected"]))
    until(
        "the time of the books",
        lambda: daemon.metrics()["homebound_reconciled_timestamp_seconds"] > 1e9,
        10.0,
    )
    until("two looks", lambda: len([said for said in daemon.lines() if QUIET in said]) > 1, 10.0)
    daemon.stop()
    assert sink.bytes == LAST_WORDS
    closed = (
        f"books closed: {LAST_WORDS} bytes left the gateway, 0 declared, 0 released, {LAST_WORDS} unexplained"
    )
    assert [said for said in daemon.lines() if "closed" in said] == [f"homebound: {closed}"]
    line = f"violation: {LAST_WORDS} bytes left the gateway unaccounted"
    assert [said for said in daemon.lines() if "unaccounted" in said] == [f"homebound: {line}"]


FAREWELL = f"""
import socket
from homebound import control
from homebound.gateway.opening import begin
opening = begin()
while control.receive(opening.supervisor)[0].get("type") != "stop":
    pass
with socket.create_connection(opening.place) as client:
    client.sendall(bytes({LAST_WORDS}))
"""


def test_an_honest_gateway_never_lacks_credit(daemon: Daemon, federation: Federation) -> None:
    """The other control: quick rounds, a broken link in between, nothing denied."""
    daemon.start()
    daemon.wait_ready()
    for _ in range(12):
        assert federation.ask(daemon.node)["outcome"] == "update"
    found = daemon.wait("acknowledged", lambda s: s["tasks"][-1]["state"] == "acknowledged")
    print(found["credit"], found["kernel_stream_bytes"])
    assert "credit" not in found["denied"].get("gateway", {})
    assert found["violations"] == []
    left = found["credit"]["guard"] + found["credit"]["supervisor"] - found["credit"]["used"]
    assert left % (1 << 64) <= granting.LEFTOVER_BYTES
