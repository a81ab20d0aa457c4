# SPDX-License-Identifier: Apache-2.0
"""The real watcher process, without any right, over real maps: what a role tries is in /metrics, exactly.

It runs as a user of its own with no_new_privs and the watcher's seccomp filter; everything it can do it does
by descriptors that this test opened. Traffic stays in network namespaces of the test's own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import reach
from homebound import control
from homebound.events import Role
from homebound.kernel import seccomp
from homebound.kernel.cgroups import Cgroup
from homebound.kernel.seccomp import Profile
from homebound.rooms.walls import COUNTER_MAPS, TRACE_MAPS
from kernel.conftest import MakeDevice
from kernel.rig import Device, child, in_fresh_network

pytestmark = pytest.mark.root

USER = 60601
# Sets no_new_privs and the filter, then becomes the watcher: what bubblewrap does for it in the daemon.
ENTER = """
import ctypes, os, runpy, sys
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
code = open(int(sys.argv[1]), "rb").read()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
held = ctypes.create_string_buffer(code, len(code))
program = Program(len(code) // 8, ctypes.addressof(held))
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())
sys.argv = ["watcher", *sys.argv[2:]]
runpy.run_module("homebound.watcher", run_name="__main__", alter_sys=True)
"""


@dataclass
class Running:
    """A watcher process and the supervisor's end of its link."""

    process: subprocess.Popen[str]
    link: socket.socket
    port: int

    def hear(self, kind: str) -> dict[str, Any]:
        while True:
            message, _ = control.receive(self.link)
            if message["type"] == kind:
                return message

    def page(self) -> dict[str, float]:
        """Every sample by its name and labels as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def pss_kilobytes(self) -> int:
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def memory_file(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@contextmanager
def running(device: Device, mode: str = "enforce") -> Iterator[Running]:
    """Start it as the supervisor does; killed at the end."""
    with ExitStack() as stack:
        ours, theirs = control.pair()
        stack.enter_context(ours)
        ours.settimeout(20)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        handed = [name for name in (*COUNTER_MAPS, *TRACE_MAPS) if name in device.probes.maps]
        maps = {name: device.probes.read_fd(name) for name in handed}
        groups = {role.label: Cgroup(device.of(role)).open_files() for role in (Role.TRAINER, Role.GUARD)}
        opened = [*maps.values(), *(fd for files in groups.values() for fd in files.values())]
        maps["events"] = device.probes.map_fd("events")
        document = {
            "name": "test", "mode": mode, "maps": maps, "cgroups": groups, "listen_fd": listener.fileno(),
        }  # fmt: skip
        settings = memory_file(json.dumps(document).encode())
        rules = seccomp.compile_filter(Profile.WATCHER)
        opened += [settings, rules]
        words = [sys.executable, "-c", ENTER, str(rules), "--control", str(theirs.fileno())]
        process = subprocess.Popen(
            reach.as_user(USER, [*words, "--settings-fd", str(settings)]),
            pass_fds=[*opened, maps["events"], listener.fileno(), theirs.fileno()],
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        (device.of(Role.WATCHER) / "cgroup.procs").write_text(str(process.pid))
        theirs.close()
        for fd in opened:
            os.close(fd)
        try:
            yield Running(process, ours, listener.getsockname()[1])
        finally:
            process.kill()
            process.communicate()


def refused_sockets() -> int:
    """23 attempts."""
    refused = 0
    for _ in range(23):
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        except PermissionError:
            refused += 1
    return refused


def test_23_attempts_are_23_in_every_place(device: Device) -> None:
    with running(device) as watcher:
        watcher.hear("beat")
        before = watcher.page()
        assert device.run(Role.TRAINER, refused_sockets) == 23
        counted = told = 0
        while counted < 23 or told < 23:  # the counters are ahead of the events
            message, _ = control.receive(watcher.link)
            counted += message["new"] if message["type"] == "verdict" else 0
            told += message["all"] if message["type"] == "denied" else 0
        after = watcher.page()
        for series in (
            'homebound_denied_total{rule="sock_create"}',
            'homebound_violations_total{role="trainer",rule="sock_create"}',
            'homebound_events_total{kind="denied"}',
        ):
            assert after[series] - before[series] == 23, series
        assert sum(after[name] for name in after if name.startswith("homebound_events_lost_total")) == 0
        control.send(watcher.link, {"type": "recent"})
        recent = watcher.hear("recent")["events"]
        kept = sum(event["role"] == "trainer" and event["rule"] == "sock_create" for event in recent)
        assert kept == told == counted == 23
        assert after['homebound_violations_total{role="trainer",rule="connect"}'] == 0
        assert after["homebound_collect_errors_total"] == 0
        print(f"watcher: {watcher.pss_kilobytes()} kB PSS, scrape {after['homebound_collect_seconds']:.4f} s")


def test_it_tries_nothing_that_is_refused_itself(device: Device) -> None:
    with running(device) as watcher:
        for _ in range(3):
            watcher.hear("beat")
            assert watcher.page()["homebound_enforce"] == 1
        assert {role for role, _ in device.denied()} <= {Role.NONE}


def test_it_reads_what_a_role_used(device: Device) -> None:
    with running(device) as watcher:
        watcher.hear("beat")
        device.run(Role.TRAINER, lambda: sum(range(3_000_000)))
        page = watcher.page()
        assert page['homebound_cpu_seconds_total{role="trainer"}'] > 0.01


def test_when_the_supervisor_is_gone_the_trainer_is_frozen_and_killed(device: Device) -> None:
    trainer = Cgroup(device.of(Role.TRAINER))
    with child(lambda: time.sleep(60), trainer.path), running(device) as watcher:
        watcher.hear("beat")
        assert trainer.is_populated()
        assert not trainer.is_frozen()
        watcher.link.close()
        _, said = watcher.process.communicate(timeout=20)
        assert watcher.process.returncode == 1
        assert "the trainer is ended" in said
        assert trainer._await("populated", 0, 5.0)


def test_bytes_of_the_trainer_in_observe_mode_are_a_violation_that_is_not_carried_out(
    make_device: MakeDevice,
) -> None:
    device = make_device(enforce=False)

    def send() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            return sender.sendto(b"x" * 23, ("127.0.0.1", 9))

    with running(device, "observe") as watcher:
        watcher.hear("beat")

        def as_trainer() -> Any:
            (device.of(Role.TRAINER) / "cgroup.procs").write_text("0")
            return send()

        assert in_fresh_network(as_trainer) == 23
        verdict = watcher.hear("verdict")
        while verdict["rule"] != "transmit":
            verdict = watcher.hear("verdict")
        assert (verdict["role"], verdict["action"], verdict["enforced"]) == ("trainer", "kill", False)
        # 20 bytes of IPv4, 8 of UDP.
        assert verdict["count"] == 51
        assert watcher.page()['homebound_transmit_bytes_total{role="trainer"}'] == 51


def test_stop_ends_it_at_once_and_quietly(device: Device) -> None:
    with running(device) as watcher:
        watcher.hear("beat")
        watcher.process.send_signal(signal.SIGINT)  # Ctrl-C at the terminal is not for it
        watcher.hear("beat")
        control.send(watcher.link, {"type": "stop"})
        _, said = watcher.process.communicate(timeout=20)
        assert (watcher.process.returncode, said) == (0, "")
        assert not Cgroup(device.of(Role.TRAINER)).is_frozen()
