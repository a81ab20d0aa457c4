# SPDX-License-Identifier: Apache-2.0
"""The trainer's starts and ends: apps that do not load, change or leak, and a trainer that is not warm."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from daemon.conftest import NO_UPDATE, MakeDaemon, approve
from daemon.federation import Federation
from daemon.rig import Daemon, Document, is_up, until, user

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

MIB = 1 << 20


def own_app(daemon: Daemon, folder: Path) -> Path:
    """A copy of the app for this device alone."""
    app = folder / "app"
    shutil.copytree(daemon.config["app"]["path"], app)
    daemon.config["app"]["path"] = str(app)
    return app


def test_app_that_does_not_load(daemon: Daemon, federation: Federation, tmp_path: Path) -> None:
    """The daemon stays, says so once, refuses the round; told to, it starts with the app that was mended."""
    app = own_app(daemon, tmp_path)
    client = app / "faulty/client_app.py"
    whole = client.read_text()
    client.write_text(whole.replace("import os\n", "import patient_4711\n"))
    approve(daemon)
    daemon.start()
    status = daemon.wait("the trouble", lambda s: "does not load" in s["problem"])
    log = daemon.state / "trainer.log"
    assert str(log) in status["problem"]
    assert "No module named 'patient_4711'" in log.read_text()
    daemon.wait("connected", lambda s: bool(s["federation"]["connected"]))
    assert federation.ask(daemon.node) == NO_UPDATE
    after = daemon.wait("refused", lambda s: s["refused"] == {"app_not_loaded": 1})
    assert after["roles"]["trainer"]["transmit_bytes"] == 0
    assert "does not load" in after["problem"]
    said = daemon.lines()
    assert len([line for line in said if "does not load" in line]) == 1
    assert not any("4711" in line.replace(str(tmp_path), "") or "Traceback" in line for line in said)
    assert daemon.stop().status == 0
    client.write_text(whole)
    approve(daemon)
    daemon.start()
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    assert daemon.wait("well", lambda s: s["problem"] == "")


def test_app_that_changes_while_the_daemon_runs(
    daemon: Daemon, federation: Federation, tmp_path: Path
) -> None:
    """The trainer that starts next would run what nobody approved: it does not start, and status says so."""
    app = own_app(daemon, tmp_path)
    daemon.start()
    daemon.wait_ready()
    (app / "faulty/more.py").write_text("print('one more line')\n")
    assert federation.ask(daemon.node, "dies") == NO_UPDATE
    status = daemon.wait("the bar", lambda s: s["state"] == "failed")
    assert "not the approved one" in status["problem"]
    assert federation.ask(daemon.node) == NO_UPDATE
    until("the metric", lambda: daemon.metrics()["homebound_training_stopped"] == 1)
    assert not is_up(daemon.wait("it", lambda _: True), "trainer")
    assert any("nothing trains until homebound is started again" in line for line in daemon.lines())


def test_status_tells_by_its_exit_status(daemon: Daemon, federation: Federation) -> None:
    """3 when nothing runs, 0 when all is well, 4 when something was tried; the number is exact."""
    daemon.start()
    daemon.wait_ready()
    well = daemon.command("status")
    assert well.returncode == 0, well.stderr
    assert federation.ask(daemon.node, "connects", 23)["outcome"] == "update"
    status = daemon.wait("the violation", lambda s: s["violations"] != [])
    (violation,) = status["violations"]
    assert (violation["rule"], violation["role"], violation["count"]) == ("socket_stream", "trainer", 23)
    assert status["roles"]["trainer"]["transmit_bytes"] == 0
    assert daemon.metrics()["homebound_violations_total role=trainer rule=socket_stream"] == 23
    assert any("violation: the trainer tried socket_stream" in line for line in daemon.lines())
    bad = daemon.command("status")
    assert bad.returncode == 4
    assert "a violation stands: socket_stream" in bad.stderr
    assert daemon.stop().status == 0
    gone = daemon.command("status")
    assert gone.returncode == 3
    assert f"no daemon named {daemon.name} runs" in gone.stderr


def test_data_cannot_be_written(daemon: Daemon, federation: Federation) -> None:
    """Not a new file, not a byte of an old one; the attempts are counted as violations."""
    file = next(Path(daemon.config["data"]["path"]).iterdir())
    before = file.read_bytes()
    daemon.start()
    daemon.wait_ready()
    for behaviour in ("writes_data", "changes_data"):
        assert federation.ask(daemon.node, behaviour) == NO_UPDATE
    status = daemon.wait("the violations", lambda s: s["violations"] and s["violations"][0]["count"] == 2)
    assert [(v["rule"], v["role"]) for v in status["violations"]] == [("file_outside", "trainer")]
    assert status["refused"] == {"app_failed": 2}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before
    assert federation.ask(daemon.node)["outcome"] == "update"


def holds(status: Document) -> int:
    """Bytes of memory that the trainer has."""
    return int(status["roles"]["trainer"]["memory_bytes"])


def test_trainer_that_is_not_kept_warm(daemon: Daemon, federation: Federation) -> None:
    """It starts with a task and ends with it, so that its memory is free in between."""
    daemon.config["trainer"]["warm"] = False
    daemon.start()
    status = daemon.wait("connected", lambda s: bool(s["federation"]["connected"]))
    assert not is_up(status, "trainer")
    for number in range(2):
        order = federation.send(daemon.node, "hangs", 0.5)
        status = daemon.wait("training", lambda s: s["state"] == "training" and holds(s) > 20 * MIB)
        pid, used = status["roles"]["trainer"]["pid"], holds(status)
        assert federation.reply(order)["outcome"] == "update"
        began = time.monotonic()
        status = daemon.wait("the trainer's end", lambda s: not is_up(s, "trainer"))
        assert user(pid) == -1
        assert (daemon.cgroup / "trainer/cgroup.procs").read_text() == ""
        took = time.monotonic() - began
        print(f"round {number}: {used >> 20} MiB, {holds(status)} bytes {took:.2f} s after the reply")
        assert holds(status) == 0
    assert status["violations"] == []
    assert status["problem"] == ""
    assert not any("failed" in line for line in daemon.lines())


def test_second_device_beside_it(make_daemon: MakeDaemon, federation: Federation) -> None:
    """Two names, two trees: one is stopped and the other does not notice."""
    first, second = make_daemon(), make_daemon()
    first.start()
    second.start()
    for daemon in (first, second):
        daemon.wait_ready()
    assert first.stop().status == 0
    assert first.leftovers() == []
    assert federation.ask(second.node)["outcome"] == "update"
    assert second.stop().status == 0
    assert second.leftovers() == []
