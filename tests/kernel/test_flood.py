# SPDX-License-Identifier: Apache-2.0
"""Honest counting under a flood: what was made is what was seen plus what was lost, for every stream.

A real watcher reads while a role makes a million refused sends, then 10,000 short processes in 2,000 cgroups.
Its counters must be exact, its series as many as before, and its memory where it was.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from homebound.events import Program, ProgramCounts, Role, Rule
from homebound.kernel import maps
from kernel.rig import Device
from kernel.test_watcher import Running, running

pytestmark = [pytest.mark.root, pytest.mark.slow]

FLOOD, WARM_UP = 1_000_000, 20_000
CGROUPS, PROCESSES_EACH = 2_000, 5
CEILING = 300
ROOM_KILOBYTES = 2048
# How long the watcher may take to count what is there already; long, because the machine may be busy.
PATIENCE = 30.0
# A socket of the supervisor, who alone may make it, in a trainer's hands: each send is refused, and told.
BRING = """
import ctypes, os, socket, struct, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
top = sys.argv[2]
open(top + "/cgroup.procs", "w").write("0")
"""
SHOOT = """
send, fd = ctypes.CDLL(None).sendto, made.fileno()
to = struct.pack("=H", socket.AF_INET) + struct.pack("!H4B8x", 9, 127, 0, 0, 1)
print(sum(send(fd, b"x", 1, 0, to, 16) < 0 for _ in range(int(sys.argv[3]))))
"""
# The same from many processes, each group of them in a cgroup that is gone right after.
CHURN = """
refused = 0
for number in range(int(sys.argv[3])):
    folder = f"{top}/{number}"
    os.mkdir(folder)
    open(f"{folder}/cgroup.procs", "w").write("0")
    for _ in range(int(sys.argv[4])):
        pid = os.fork()
        if pid == 0:
            try:
                made.sendto(b"x", ("127.0.0.1", 9))
            except PermissionError:
                os._exit(1)
            os._exit(0)
        refused += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    open(f"{top}/cgroup.procs", "w").write("0")
    os.rmdir(folder)
print(refused)
"""


@dataclass(frozen=True)
class Books:
    """What the watcher's page says of refusals and of all events together, and how large it is itself."""

    seen: int
    lost: int
    all_seen: int
    all_lost: int
    violations: int
    series: int
    kilobytes: int


def read(watcher: Running) -> Books:
    page = watcher.page()
    ours = {name: value for name, value in page.items() if name.startswith("homebound_")}
    all_lost = sum(value for name, value in ours.items() if name.startswith("homebound_events_lost_total"))
    all_seen = sum(value for name, value in ours.items() if name.startswith("homebound_events_total"))
    lost = ours['homebound_events_lost_total{stream="refusals"}']
    seen = ours['homebound_events_total{kind="denied"}']
    assert ours["homebound_events_undecoded_total"] == 0
    assert ours["homebound_bpf_failed_lookups_total"] == 0
    violations = ours['homebound_violations_total{role="trainer",rule="sendmsg"}']
    status = Path(f"/proc/{watcher.process.pid}/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return Books(int(seen), int(lost), int(all_seen), int(all_lost), int(violations), len(ours), kilobytes)


def settled(device: Device, watcher: Running, made: int) -> Books:
    """Once all that was made was seen, or lost and said so, and judged. Reads what the watcher tells."""
    deadline = time.monotonic() + PATIENCE
    while True:
        drain(watcher)
        found = read(watcher)
        is_whole = found.all_seen + found.all_lost >= all_made(device) and found.seen + found.lost >= made
        if (is_whole and found.violations >= made) or time.monotonic() > deadline:
            return found


def drain(watcher: Running) -> None:
    """Take what the watcher says, as a supervisor would: one that is not heard ends the trainer."""
    watcher.link.settimeout(0.2)
    try:
        while True:
            watcher.link.recv(1 << 17)
    except TimeoutError:
        pass


def run(device: Device, watcher: Running, script: str, *numbers: int) -> int:
    """How many attempts of a script were refused. A small process of its own: its forks are quick."""
    folders = [str(device.of(role)) for role in (Role.SUPERVISOR, Role.TRAINER)]
    words = [sys.executable, "-I", "-S", "-c", BRING + script, *folders, *map(str, numbers)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    with process:
        while process.poll() is None:
            drain(watcher)
        assert process.stdout is not None
        return int(process.stdout.read())


def counted(device: Device) -> ProgramCounts:
    return maps.read_program_state(device.probes.map_fd("program_state"))[Program.SENDMSG4]


def all_made(device: Device) -> int:
    """Events of every program, those of the activity of roles too."""
    return sum(
        state.made for state in maps.read_program_state(device.probes.map_fd("program_state")).values()
    )


def test_a_million_events_and_a_churn(device: Device) -> None:
    with running(device) as watcher:
        watcher.hear("beat")
        made = run(device, watcher, SHOOT, WARM_UP)
        before = settled(device, watcher, made)
        began = time.monotonic()
        made += run(device, watcher, SHOOT, FLOOD)
        flood = settled(device, watcher, made)
        flooded = time.monotonic()
        made += run(device, watcher, CHURN, CGROUPS, PROCESSES_EACH)
        least = all_made(device)
        churn = settled(device, watcher, made)
        print(f"flood {flooded - began:.0f} s, lost {flood.lost}; churn {time.monotonic() - flooded:.0f} s")
        print(f"resident: {before.kilobytes}, {flood.kilobytes}, {churn.kilobytes} kB; {churn.series} series")
    assert made == WARM_UP + FLOOD + CGROUPS * PROCESSES_EACH
    assert device.denied() == {(Role.TRAINER, Rule.SENDMSG4): made}
    state = counted(device)
    assert (state.made, state.failed_lookups) == (made, 0)
    # The stream of refusals has other programs' events, too: an event that the watcher asked for may be lost.
    assert churn.seen + state.lost == made
    assert state.lost <= churn.lost
    assert churn.violations == made
    # Processes of the roles end, and the watcher asks for events, while it is read.
    assert least <= churn.all_seen + churn.all_lost <= all_made(device)
    assert before.series == flood.series == churn.series < CEILING
    assert max(flood.kilobytes, churn.kilobytes) - before.kilobytes < ROOM_KILOBYTES


def test_a_loss_is_seen_as_one(device: Device) -> None:
    """The control: nobody reads, so all that finds no room is lost, and said to be."""

    def shoot() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            (device.of(Role.TRAINER) / "cgroup.procs").write_text("0")
            refused = 0
            for _ in range(5_000):
                try:
                    made.sendto(b"x", ("127.0.0.1", 9))
                except PermissionError:
                    refused += 1
            return refused

    assert device.run(Role.SUPERVISOR, shoot) == 5_000
    made, lost = counted(device).made, counted(device).lost
    assert (made, len(device.events()) + lost) == (5_000, 5_000)
    assert lost > 1_000
