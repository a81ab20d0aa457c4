# SPDX-License-Identifier: Apache-2.0
"""Ledger and privacy budget of a real daemon: across restarts, with old copies put back, over the limit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon, Document, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
# At noise 1 two releases are epsilon 6.6, three 8.4.
LIMITED = {"noise_multiplier": 1.0, "epsilon_limit": 7.0, "run_epsilon_limit": 0.0}
RELEASES = 2


def released(daemon: Daemon, federation: Federation) -> Document:
    """One round whose update left; the status once the books were told."""
    known = len(daemon.entries())
    assert federation.ask(daemon.node)["outcome"] == "update"
    return daemon.wait("the entry", lambda s: s["ledger"] and s["ledger"]["entries"] > known)


def test_over_the_limit_the_device_stops_training_and_says_so(daemon: Daemon, federation: Federation) -> None:
    daemon.config["guard"] = {**daemon.config.get("guard", {}), **LIMITED}
    daemon.start()
    daemon.wait_ready()
    for _ in range(RELEASES):
        found = released(daemon, federation)
    assert found["privacy"]["epsilon"] == pytest.approx(6.57, abs=0.01)
    assert found["privacy"]["exhausted"] is True
    assert federation.ask(daemon.node)["outcome"] == "error"
    assert daemon.wait("the refusal", lambda s: s["refused"])["refused"] == {"budget": 1}
    assert "nothing trains any more" in " ".join(daemon.command("status").stdout.split())
    spent = "homebound_privacy_epsilon_spent scope=all"
    until("the metric", lambda: daemon.metrics()[spent] > 6, 10.0)
    metrics = daemon.metrics()
    assert metrics["homebound_privacy_epsilon_limit scope=all"] == 7.0
    assert metrics["homebound_ledger_entries"] == RELEASES + 1
    assert metrics["homebound_ledger_verified_timestamp_seconds"] > 1e9
    said = "\n".join(daemon.lines())
    head = json.loads((daemon.state / "anchor.json").read_text())
    assert f"the ledger has {RELEASES + 1} entries, head {head['hash']}" in said
    assert (daemon.state / "anchor.json").stat().st_uid == 0
    daemon.kill()  # a restart, even after a crash, gives nothing back
    daemon.start()
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "error"
    assert len([entry for entry in daemon.entries() if entry.kind == "release"]) == RELEASES


def test_an_old_copy_that_is_put_back_is_no_refund(
    daemon: Daemon, federation: Federation, tmp_path: Path
) -> None:
    state, copy, present = daemon.state / "guard", tmp_path / "copy", tmp_path / "present"
    daemon.start()
    daemon.wait_ready()
    released(daemon, federation)
    assert daemon.stop().status == 0
    shutil.copytree(state, copy)
    daemon.start()
    daemon.wait_ready()
    released(daemon, federation)
    assert daemon.stop().status == 0
    state.rename(present)
    shutil.copytree(copy, state)
    daemon.start()
    ended = daemon.ended()
    assert ended.status == 4
    assert "ends at 1, before entry 2 as it was known" in ended.fault
    shutil.rmtree(state)
    daemon.start()
    ended = daemon.ended()
    assert (ended.status, "is gone; it had 2 entries" in ended.fault) == (4, True)
    # The control: with the ledger as it was, all is well.
    shutil.rmtree(state, ignore_errors=True)
    present.rename(state)
    daemon.start()
    daemon.wait_ready()
    released(daemon, federation)
    verified = daemon.command("ledger", "verify")
    assert (verified.returncode, verified.stdout.startswith("whole: 3 entries")) == (0, True)


def test_the_key_can_be_a_credential(
    daemon: Daemon, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "homebound.ledger_key").write_text(os.urandom(32).hex())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    daemon.start()
    daemon.wait_ready()
    released(daemon, federation)
    assert not (daemon.state / "guard" / "ledger.key").exists()
    assert daemon.command("ledger", "verify").returncode == 0
