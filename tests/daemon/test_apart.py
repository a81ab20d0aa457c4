# SPDX-License-Identifier: Apache-2.0
"""Who can reach what, tried from outside a running daemon: the gateway's one address, the trainer's data."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.rig import ROLES, TRAINER, Daemon
from homebound.demo.superlink import ADDRESS

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
ATTEMPTS = 5
# Enters a cgroup, then tries each way and says by which error it ended; 0 when it went through.
PROGRAM = """
import json, os, socket, sys
with open(sys.argv[1], "w") as procs:
    procs.write("0")
def attempt(family, kind, place):
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(2)
            sock.connect(place) if kind == socket.SOCK_STREAM else sock.sendto(b"raw data", place)
    except OSError as error:
        return error.errno
    return 0
V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
allowed, other, count = map(int, sys.argv[2:])
ways = {
    "other port": (V4, TCP, ("127.0.0.1", other)),
    "other address": (V4, TCP, ("127.0.0.2", allowed)),
    "IPv6": (V6, TCP, ("::1", allowed)),
    "v4-mapped": (V6, TCP, ("::ffff:127.0.0.1", other)),
    "UDP": (V4, UDP, ("127.0.0.1", allowed)),
    "UDP over IPv6": (V6, UDP, ("::1", other)),
}
found = {name: [attempt(*way) for _ in range(count)] for name, way in ways.items()}
json.dump({"allowed": [attempt(V4, TCP, ("127.0.0.1", allowed))], **found}, sys.stdout)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((ADDRESS, 0)) as sock:
        sock.setblocking(False)
        yield sock


def attempt(procs: Path, allowed: int, other: int) -> dict[str, set[int]]:
    words = [sys.executable, "-c", PROGRAM, str(procs), str(allowed), str(other), str(ATTEMPTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {name: set(codes) for name, codes in json.loads(done.stdout).items()}


def test_gateway_reaches_one_address(running: Daemon, listener: socket.socket) -> None:
    """From a process in its cgroup, without its sandbox: the kernel programs alone hold."""
    allowed, other = (
        int(running.config["federation"]["address"].rpartition(":")[2]),
        listener.getsockname()[1],
    )
    before = running.wait("it", lambda _: True)["denied"].get("gateway", {})
    assert before == {}
    found = attempt(running.cgroup / "gateway/cgroup.procs", allowed, other)
    assert found.pop("allowed") == {0}
    assert all(codes == {errno.EPERM} for codes in found.values()), found
    with pytest.raises(BlockingIOError):
        listener.accept()
    twice = 2 * ATTEMPTS
    counts = {"sock_create": twice, "connect4": twice, "connect6": twice}  # UDP is not even made
    against = counts | {"cgroup": 1}  # that the process went in there is one, too
    status = running.wait("the violations", lambda s: len(s["violations"]) == len(against))
    assert status["denied"]["gateway"] == counts
    assert {v["rule"]: v["count"] for v in status["violations"] if v["role"] == "gateway"} == against
    assert status["unaccounted_bytes"] == 0


def test_control_the_same_from_here_goes_through(running: Daemon, listener: socket.socket) -> None:
    """In no cgroup of ours."""
    port = listener.getsockname()[1]
    with socket.create_connection((ADDRESS, port)):
        listener.accept()[0].close()


def test_data_is_the_trainers_alone(running: Daemon) -> None:
    """No other role has it in its view; whoever of them got a path to it could still not open it."""
    data = Path(running.config["data"]["path"])
    file = next(data.iterdir())
    pids = {role: running.pid(role) for role in ROLES}
    for role, pid in pids.items():
        root = Path(f"/proc/{pid}/root")
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        seen = [line for line in mounts if str(data) in line.split()[3]]
        assert not (root / data.relative_to("/")).exists()
        if role == "trainer":
            assert (root / "data" / file.name).stat().st_ino == file.stat().st_ino
            assert [line.split()[4] for line in seen] == ["/data"]
            assert "ro" in seen[0].split()[5].split(",")
        else:
            assert not (root / "data").exists()
            assert seen == []


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6], ids=["watcher", "trainer", "guard", "gateway", "canary"])
def test_data_opens_for_its_reader_only(running: Daemon, number: int) -> None:
    file = next(Path(running.config["data"]["path"]).iterdir())
    user = running.base + number
    fd = os.open(file.parent, os.O_PATH)
    words = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "cat",
        f"/proc/self/fd/{fd}/{file.name}",
    ]
    done = subprocess.run(words, pass_fds=[fd], capture_output=True, check=False)
    os.close(fd)
    assert (done.returncode == 0) == (number == TRAINER), done.stderr


def test_state_is_its_owners_alone(running: Daemon) -> None:
    """The ledger is the guard's, the key and the outbox are the gateway's; the trainer sees none of it."""
    for role in ROLES:
        root = Path(f"/proc/{running.pid(role)}/root")
        found = {path.name for path in (root / "state").iterdir()} if (root / "state").exists() else set()
        wanted = {"guard": "ledger.sqlite3", "gateway": "node.pem"}.get(role)
        assert (wanted in found) if wanted else found == set()
        assert {"ledger.sqlite3", "node.pem"} & found == ({wanted} if wanted else set())
    for path in (running.state / "guard", running.state / "gateway", running.state / "trainer.log"):
        assert path.stat().st_mode & 0o077 == 0
