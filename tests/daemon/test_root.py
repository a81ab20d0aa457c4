# SPDX-License-Identifier: Apache-2.0
"""A trainer in a root file system of its own: the same walls, and nothing of that root runs with a right.

The root is this host's /usr with a mark in it and without its setpriv; tests/packages has a container image.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
MARK = "usr/share/another-root"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder, upper = tmp_path / "root", tmp_path / "upper"
    with ExitStack() as stack:

        def mount(*words: str | Path) -> None:
            subprocess.run(["mount", *words], check=True)
            stack.callback(lambda: subprocess.run(["umount", "-l", words[-1]], check=False))

        for place in (folder / "usr", folder / "etc", folder / sys.prefix.lstrip("/"), upper):
            place.mkdir(parents=True)
        mount("-t", "tmpfs", "tmpfs", upper)
        (upper / "work").mkdir()
        changed = upper / "changes/bin"
        changed.mkdir(parents=True)
        (changed / "setpriv").write_text("#!/bin/sh\nexit 1\n")
        options = f"lowerdir=/usr,upperdir={changed.parent},workdir={upper / 'work'}"
        mount("-t", "overlay", "overlay", "-o", options, folder / "usr")
        (folder / MARK).touch()
        mount("--bind", sys.prefix, folder / sys.prefix.lstrip("/"))
        for name in ("lib", "lib64", "bin"):
            (folder / name).symlink_to(f"usr/{name}")
        (folder / "etc/ld.so.cache").write_bytes(Path("/etc/ld.so.cache").read_bytes())
        yield folder


def test_a_round_in_another_root(daemon: Daemon, federation: Federation, root: Path) -> None:
    daemon.config["trainer"] |= {"root": str(root), "python": sys.executable}
    daemon.start()
    status = daemon.wait_ready()
    assert all(status["walls"][wall]["active"] for wall in ("namespaces", "seccomp", "cgroup-bpf"))
    assert federation.ask(daemon.node)["outcome"] == "update"
    trainer, guard = daemon.pid("trainer"), daemon.pid("guard")
    assert Path(f"/proc/{trainer}/root", MARK).exists()
    assert not Path(f"/proc/{guard}/root", MARK).exists()
    uids = next(line for line in Path(f"/proc/{trainer}/status").read_text().splitlines() if "Uid:" in line)
    assert set(uids.split()[1:]) == {str(daemon.base + 3)}
    # What is tried in it is refused, counted and told.
    assert federation.ask(daemon.node, "connects", 23)["outcome"] == "update"
    found = daemon.wait("the violation", lambda s: s["violations"] != [])["violations"]
    assert [(entry["role"], entry["rule"], entry["count"]) for entry in found] == [
        ("trainer", "socket_stream", 23)
    ]


def test_a_root_without_python_is_told(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    daemon.config["trainer"]["root"] = str(tmp_path)
    daemon.start()
    ended = daemon.ended()
    assert ended.status == 78
    assert f"{tmp_path} has no /usr/bin/python3" in ended.fault
