# SPDX-License-Identifier: Apache-2.0
"""The trainer is started and ended again and again, its Python hostile from its first moment: 0 bytes out.

What tries is the environment that the operator named (trainer.python): its .pth file is run before any line
of ours, when Landlock is not yet there. 23 starts by default, 1,000 with KILLS=all (make test-kills).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from homebound.apptree import tree_sha256
from homebound.events import Direction, Role, Verdict
from homebound.kernel import bpffs, cgroups, maps
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.probes import Probes
from homebound.rooms import walls
from homebound.rooms.instance import Instance
from homebound.settings import AppSettings, DataSettings, FederationSettings, Settings, TrainerSettings
from homebound.supervisor.roster import Roster
from kills.rig import Receiver, say
from leaks.trainers import USER, own_data, write_app

pytestmark = [pytest.mark.root, pytest.mark.slow]

FEW, MANY = 23, 1000
TRIES = 4
HOSTILE = """
import os, socket
def shoot(family, kind, host):
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(1)
            sock.connect((host, {port}))
            sock.send(b"raw data")
    except OSError:
        return 0
    return 1
out = sum(
    shoot(family, kind, host)
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1"))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
)
os.write(1, b"out %d\\n" % out)
import time
time.sleep(float(os.environ.get("HOSTILE_PAUSE", "60")))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="homebound-test-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def environment(folder: Path, port: int) -> Path:
    """A Python environment that shoots as soon as it is started."""
    made = folder / "environment"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(made)], check=True)
    (site,) = made.glob("lib/python3*/site-packages")
    (site / "hostile.py").write_text(HOSTILE.replace("{port}", str(port)))
    (site / "hostile.pth").write_text("import hostile\n")
    return made / "bin/python"


@pytest.mark.timeout(3600)
def test_every_start_of_the_trainer_is_behind_the_walls(place: Path) -> None:
    receiver = Receiver()
    python = environment(place, receiver.port)
    count = MANY if os.environ.get("KILLS") == "all" else FEW
    # The control: the same environment, started here.
    subprocess.run([python, "-c", ""], env={"HOSTILE_PAUSE": "0"}, check=True, capture_output=True)
    deadline = time.monotonic() + 10
    while receiver.look() < TRIES:
        assert time.monotonic() < deadline, receiver.arrived
    receiver.arrived = 0

    mount = cgroups.mount()
    root = Cgroup(mount / "homebound" / f"restarts-{os.getpid()}", mount)
    pins = bpffs.FOLDER / "homebound" / root.path.name
    instance = Instance(run=place, state=place, pins=pins, root=root, home="/")
    app = write_app(place / "app")
    settings = Settings(
        federation=FederationSettings(address="127.0.0.1:9"),
        app=AppSettings(path=str(app), fab_sha256="0" * 64, tree_sha256=tree_sha256(app)),
        data=DataSettings(path=str(own_data(place / "data"))),
        trainer=TrainerSettings(python=str(python), preload=()),
    )
    board = bpffs.hold()
    trainer = instance.cgroup(Role.TRAINER)
    try:
        for folder in (root.path.parent, root.path, trainer.path):
            folder.mkdir(exist_ok=True)
        probes = Probes.load(walls.OBJECTS, root.path, trainer.level(), True, pins)
        try:
            probes.assign(trainer.id(), Role.TRAINER)
            seconds = restart(Roster(settings, instance, {Role.TRAINER: USER}), count)
            assert receiver.look() == 0
            sent, denied = counted(probes)
            say(f"{count} starts of the trainer in {seconds:.0f} s, {denied} tries refused, {sent} bytes out")
            assert (sent, denied) == (0, TRIES * count)
        finally:
            trainer.kill()
            probes.remove()
    finally:
        root.remove()
        with suppress(OSError):
            root.path.parent.rmdir()
        with suppress(OSError):
            pins.parent.rmdir()
        board.release()
        receiver.close()


def restart(roster: Roster, count: int) -> float:
    """Start, look at the walls, thaw, let it try, end; so many times. Seconds that it took."""
    began = time.monotonic()
    for _ in range(count):
        member = roster.start_trainer()
        assert os.read(member.log, 100) == b"out 0\n"
        roster.end(Role.TRAINER)
    return time.monotonic() - began


def counted(probes: Probes) -> tuple[int, int]:
    """Bytes that the kernel let the trainer send, and tries that it counted as refused."""
    sent = sum(
        cell.bytes
        for key, cell in maps.read_traffic(probes.map_fd("traffic")).items()
        if (key.role, key.direction, key.verdict) == (Role.TRAINER, Direction.TRANSMIT, Verdict.ALLOWED)
    )
    denied = maps.read_denied(probes.map_fd("denied"))
    return sent, sum(number for (role, _), number in denied.items() if role is Role.TRAINER)
