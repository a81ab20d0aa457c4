# SPDX-License-Identifier: Apache-2.0
"""Starts that must fail: each with its exit status, one line that says what, one that says what to do.

The fixture sees to it that nothing is left of a daemon that did not start.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reach
from daemon.conftest import MakeDaemon
from daemon.rig import Daemon, Ended
from homebound.demo.superlink import ADDRESS

pytestmark = [
    pytest.mark.root,
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
NOBODY = 65534


def refused(daemon: Daemon, **how: Any) -> Ended:
    daemon.start(**how)
    ended = daemon.ended()
    print(f"{ended.status} after {ended.seconds:.2f} s\n{ended.fault}")
    return ended


def test_not_root(daemon: Daemon) -> None:
    ended = refused(daemon, before=reach.as_user(NOBODY, []))
    assert ended.status == 77
    assert "as root" in ended.fault


def _empty(data: Path) -> None:
    (data / "numbers.npy").unlink()


def _unreadable(data: Path) -> None:
    os.chown(data / "numbers.npy", 0, 0)


def _file(data: Path) -> None:
    shutil.rmtree(data)
    data.touch()


def _closed(data: Path) -> None:
    os.chown(data, 0, 0)


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "a file": (_file, "is not a folder"),
    "empty": (_empty, "holds no file"),
    "a file unreadable": (_unreadable, "cannot be read by the trainer"),
    "the folder unreadable": (_closed, "cannot be read by the trainer"),
    "a link out": (lambda data: (data / "out").symlink_to("/etc/passwd"), "leads out of the folder"),
    "a link to a folder outside": (lambda data: (data / "out").symlink_to("/var"), "leads out of the folder"),
    "a FIFO": (lambda data: os.mkfifo(data / "pipe"), "FIFO"),
    "a device": (lambda data: os.mknod(data / "null", 0o20444, os.makedev(1, 3)), "character device"),
    "a socket": (lambda data: os.mknod(data / "pipe", stat.S_IFSOCK | 0o600), "a socket"),
}


@pytest.mark.parametrize("fault", DATA)
def test_data_folder(daemon: Daemon, fault: str) -> None:
    spoil, words = DATA[fault]
    spoil(Path(daemon.config["data"]["path"]))
    ended = refused(daemon)
    assert ended.status == 78
    assert "data.path" in ended.fault
    # Names of files may be data. The journal may be forwarded.
    assert words in ended.fault
    assert not any(name in ended.fault for name in ("numbers.npy", "pipe", "passwd"))


def test_app_folder_missing(daemon: Daemon) -> None:
    daemon.config["app"]["path"] = str(daemon.folder / "nothing")
    ended = refused(daemon)
    assert ended.status == 78
    assert "app.path" in ended.fault
    assert "is not a folder" in ended.fault


def test_app_is_not_the_approved_one(daemon: Daemon, tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(daemon.config["app"]["path"], app)
    (app / "faulty" / "more.py").write_text("print('one more line')\n")
    daemon.config["app"]["path"] = str(app)
    ended = refused(daemon)
    assert ended.status == 78
    assert "app.tree_sha256" in ended.fault
    assert "homebound app-hash" in ended.fault


def test_five_mistakes_at_once(daemon: Daemon) -> None:
    config = daemon.config
    config["mode"] = "enforced"
    config["federation"]["adress"] = "127.0.0.1:1"
    config["trainer"]["round_timeout_seconds"] = -1
    config["guard"] = {"clip_norm": "1.0"}
    config["app"]["fab_sha256"] = "abc"
    daemon.start()
    ended = daemon.ended()
    text = "\n".join(ended.lines)
    print(text)
    assert ended.status == 78
    assert "Traceback" not in text
    wrong = "mode federation.adress trainer.round_timeout_seconds guard.clip_norm app.fab_sha256"
    assert all(key in text for key in wrong.split())
    assert "address" in text.replace("federation.adress", "")


def test_config_missing(daemon: Daemon) -> None:
    daemon.start(before=("env", "--chdir=/"), prepare=lambda: (daemon.folder / "homebound.toml").unlink())
    ended = daemon.ended()
    assert ended.status == 78
    assert "does not exist" in ended.fault


def test_metrics_port_taken(daemon: Daemon) -> None:
    with socket.create_server((ADDRESS, int(daemon.config["metrics"]["port"]))):
        ended = refused(daemon)
    assert ended.status == 1
    assert f"metrics port {ADDRESS}:{daemon.config['metrics']['port']}" in ended.fault
    assert "metrics.port" in ended.fault


def test_second_daemon_of_one_name(daemon: Daemon, make_daemon: MakeDaemon) -> None:
    daemon.start()
    daemon.wait_ready()
    second = make_daemon()
    second.config["name"] = daemon.config["name"]
    second.config["paths"] = daemon.config["paths"]
    ended = refused(second)
    assert ended.status == 1
    assert f"a daemon named {daemon.name} already runs" in ended.fault
    third = make_daemon()
    third.config["name"] = daemon.config["name"]
    assert refused(third).status == 1, "another run folder is no other name: cgroups and pins have it too"
    after = daemon.wait_ready()
    assert after["roles"]["trainer"]["restarts"] == 0
    assert daemon.stop().status == 0
