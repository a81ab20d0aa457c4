# SPDX-License-Identifier: Apache-2.0
"""The daemon promises only what was tried: it does not start where a wall cannot stand, no setting takes one
away, one that falls later ends the training, and mode observe says what it is."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.rig import Daemon, is_up, until
from homebound.events import Role
from homebound.kernel import bpf, cgroups
from homebound.kernel.seccomp import Profile
from homebound.rooms import launch, roles
from homebound.rooms.launch import Links, WallMissing
from homebound.settings import (
    AppSettings,
    CanarySettings,
    DataSettings,
    FederationSettings,
    GuardSettings,
    Settings,
    TrainerSettings,
)
from leaks.devices import daemon
from leaks.trainers import USER, own_data, trainer, write_app

pytestmark = pytest.mark.root

# Says when it is loaded, then tries to connect whenever it is asked for a task; here nobody asks.
CALM = 'print("loaded", flush=True)\n'
TRYING = """
import socket
for _ in range(7):
    try:
        socket.create_connection(("127.0.0.1", 9), 1)
    except OSError as error:
        print("error", error.errno, flush=True)
"""


def app_that(folder: Path, lines: str) -> Path:
    app = write_app(folder / "app")
    (app / "app.py").write_text((app / "app.py").read_text() + lines)
    return app


# --- it does not start ------------------------------------------------------------------------------


@pytest.mark.parametrize("wall", ["namespaces", "seccomp"])
def test_a_role_without_a_wall_is_not_spoken_to(tmp_path: Path, wall: str) -> None:
    """The supervisor's look from outside finds what is missing, and goes on finding it."""
    tmp_path.chmod(0o755)
    app = write_app(tmp_path / "app")
    with (
        pytest.raises(WallMissing, match=f"the trainer runs without a wall: {wall}: "),
        trainer(app, own_data(tmp_path / "data"), without=(wall, "entry")),
    ):
        pytest.fail("it was let go on")


@contextmanager
def in_cgroup(name: str) -> Iterator[Path]:
    """A cgroup with this path below one of ours; removed in the end."""
    top = cgroups.mount() / f"homebound-test-{os.getpid()}"
    path = top / name
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        for folder in (path, *path.parents):
            if folder == top.parent:
                break
            folder.rmdir()


def enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text("0")


@pytest.mark.parametrize("name", ["user@1000.service/app.slice/homebound.service", "user@0.service"])
def test_under_a_users_service_manager(folder: Path, name: str) -> None:
    """Its units cannot keep a promise: filters of addresses, for one, are ignored there without a word."""
    with in_cgroup(f"user.slice/{name}") as cgroup, daemon(folder, app_that(folder, CALM)) as device:
        device.start(prepare=lambda: enter(cgroup))
        ended = device.ended()
        assert ended.status == 77
        assert "a user's service manager (user@" in ended.fault
        assert "sudo systemctl start homebound" in ended.fault
        assert not (device.state / "guard").exists()


def test_from_a_login_session_it_starts(folder: Path) -> None:
    """The control: root's own shell is below user.slice, too, and is no service manager."""
    with in_cgroup("user.slice/session-3.scope") as cgroup, daemon(folder, app_that(folder, CALM)) as device:
        device.start(prepare=lambda: enter(cgroup))
        device.wait("the trainer", lambda status: is_up(status, "trainer"))
        assert device.stop().status == 0
        assert str(os.getpid()) not in (cgroup / "cgroup.procs").read_text()


def test_root_of_a_container_without_rights(folder: Path) -> None:
    """It has the number of root and no capability on the host: one line says so, and nothing was started."""
    with daemon(folder, app_that(folder, CALM)) as device:
        device.start(before=("unshare", "--user", "--map-root-user"))
        ended = device.ended()
        assert ended.status in (69, 77, 78)
        print(ended.fault)
        assert device.owned() == []


# --- no setting takes a wall away -------------------------------------------------------------------

PLAIN = Settings(
    federation=FederationSettings(address="192.0.2.1:8000"),
    app=AppSettings(path="/app", fab_sha256="0" * 64, tree_sha256="0" * 64),
    data=DataSettings(path="/srv/data"),
)
# Each setting that could have a say in how the trainer is started, with a value that is not its default.
CHANGES: Mapping[str, dict[str, Any]] = {
    "mode": {"mode": "observe"},
    "loader": {"loader": "bcc"},
    "require": {"require": ()},
    "insecure": {"federation": replace(PLAIN.federation, insecure=True)},
    "cold": {"trainer": TrainerSettings(warm=False)},
    "memory": {"trainer": TrainerSettings(memory_max_bytes=1 << 30)},
    "tasks": {"trainer": TrainerSettings(tasks_max=16)},
    "scratch": {"trainer": TrainerSettings(scratch_bytes=1 << 20)},
    "groups": {"trainer": TrainerSettings(groups=("adm",))},
    "log": {"trainer": TrainerSettings(log_bytes=0)},
    "noise": {"guard": GuardSettings(noise_multiplier=0.0)},
    "canary": {"canary": CanarySettings(interval_seconds=86400.0)},
    "node_config": {"app": replace(PLAIN.app, node_config={"network": True, "unshare": "no"})},
}


def test_no_pair_of_settings_opens_anything() -> None:
    """The trainer's command line is the same for all, but for the size of its scratch."""
    plain = words_of(roles.trainer(PLAIN, USER), PLAIN)
    for one, two in itertools.combinations_with_replacement(CHANGES, 2):
        settings = replace(PLAIN, **{**CHANGES[one], **CHANGES[two]})
        spec = roles.trainer(settings, USER)
        walls = (spec.profile, spec.shared_namespaces, spec.view.network)
        assert walls == (Profile.SEALED, frozenset(), False), (one, two)
        assert words_of(spec, settings) == plain, (one, two)
        assert not any(bind.writable for bind in spec.view.binds), (one, two)


def words_of(spec: roles.Spec, settings: Settings) -> list[str]:
    size = str(settings.trainer.scratch_bytes)
    return [word.replace(size, "SCRATCH") for word in launch.command_line(spec, Links([], {}))]


# --- a wall that falls later ------------------------------------------------------------------------


def test_a_program_that_is_taken_off_ends_the_training(folder: Path) -> None:
    """Somebody detaches a program: the canary finds it, and the daemon stays to say so."""
    with daemon(folder, app_that(folder, CALM)) as device:
        device.config["canary"] = {"interval_seconds": 1.0}
        device.start()
        before = device.wait("the trainer", lambda status: is_up(status, "trainer"))
        assert before["walls"]["cgroup-bpf"]["active"]
        link = bpf.open_pin(device.pins / "links/hb_sock_create")
        assert bpf.detach_link(link)
        os.close(link)
        status = device.wait("the bar", lambda found: found["state"] == "failed")
        assert not is_up(status, "trainer")
        assert not status["walls"]["cgroup-bpf"]["active"]
        assert status["walls"]["seccomp"]["active"]
        # The supervisor's canary and the watcher's policy both see it; the first to say so is quoted.
        assert re.search("the canary got out: bpf_|3 attempts of the canary got out", status["problem"])
        assert status["canary"]["out"] > 0
        until("the bar as a metric", lambda: device.metrics()["homebound_training_stopped"] == 1)
        until("the wall as a metric", lambda: device.metrics()["homebound_wall_active wall=cgroup-bpf"] == 0)
        assert any("attempts of the canary got out" in line for line in device.lines())
        assert (device.cgroup / "trainer/cgroup.procs").read_text() == ""


# --- observe ----------------------------------------------------------------------------------------


def test_observe_counts_the_same_and_stops_nothing_but_the_walls_stay(folder: Path) -> None:
    """The trainer goes on, the attempt failed all the same, and status, metric and journal say which mode."""
    for mode in ("observe", "enforce"):
        (folder / mode).mkdir(mode=0o755)
        with daemon(folder / mode, app_that(folder / mode, TRYING), mode) as device:
            device.start()
            status = device.wait("the attempts", lambda found: counted(found) >= 7)
            (violation,) = status["violations"]
            assert (violation["rule"], violation["count"]) == ("socket_stream", 7)
            assert status["denied"]["trainer"] == {"socket_stream": 7}
            assert status["mode"] == mode
            metrics = device.metrics()
            assert metrics["homebound_enforce"] == (mode == "enforce")
            assert metrics["homebound_violations_total role=trainer rule=socket_stream"] == 7
            assert said(device) == ["error 1"] * 7  # EPERM
            assert all(status["walls"][wall]["active"] for wall in ("namespaces", "seccomp", "landlock"))
            assert status["walls"]["cgroup-bpf"]["active"] == (mode == "enforce")
            assert is_up(device.wait("it", lambda _: True), "trainer")
            starts = [line for line in device.lines() if " started" in line]
            assert len(starts) == 1
            assert ("nothing is denied" in starts[0]) == (mode == "observe")


def counted(status: Mapping[str, Any]) -> int:
    return sum(violation["count"] for violation in status["violations"])


def said(device: Daemon) -> list[str]:
    lines = (device.state / "trainer.log").read_text().splitlines()
    return [line for line in lines if line.startswith("error")]


def test_observe_lets_the_canary_out_of_the_programs_alone(folder: Path) -> None:
    """It is no violation there that the programs let pass; were another wall gone, it would be one."""
    with daemon(folder, app_that(folder, CALM), "observe") as device:
        device.config["canary"] = {"interval_seconds": 1.0}
        device.start()
        first = device.wait("the trainer", lambda status: is_up(status, "trainer"))
        device.wait("another flight", lambda status: status["canary"]["time"] > first["canary"]["time"])
        status = device.wait("it", lambda _: True)
        assert is_up(status, "trainer")
        assert status["canary"]["out"] == 3
        assert status["violations"] == []
        assert Role.TRAINER.label in status["roles"]
