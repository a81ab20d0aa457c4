# SPDX-License-Identifier: Apache-2.0
"""Nothing gets out of the real sandbox; without it, or with a part of it, the same test says what does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from homebound.events import Role
from homebound.kernel import cgroups
from homebound.kernel.spawn import Command, spawn
from homebound.leaktest.attempts import CHANNELS, NAMES, Channel
from homebound.leaktest.device import Device, device
from homebound.leaktest.judge import read_lines
from homebound.leaktest.run import PACKAGE_ROOT, Report, Unwatched, leaktest, receivers, verdict

pytestmark = pytest.mark.root

USERS_BASE = 60600
ATTEMPTS = [sys.executable, "-B", "-s", "-m", "homebound.leaktest.attempts"]
# What the kernel programs on the cgroup hold by themselves: all that becomes an IP packet.
IP_CHANNELS = ("tcp", "udp", "dns", "mapped", "icmp", "io_uring")
COUNTERS = {
    "tcp": "socket_stream",
    "udp": "socket_datagram",
    "dns": "socket_datagram",
    "mapped": "socket_stream",
    "icmp": "socket_raw",
    "packet": "socket_packet",
    "vsock": "socket_vsock",
    "unix_path": "socket_unix",
    "unix_abstract": "socket_unix",
    "io_uring": "io_uring",
    "file_outside": "file_outside",
    "foreign_fd": "foreign_fd",
}
# Refused calls of one run, by rule; 25 in all.
CALLS = {
    "socket_stream": 3,  # tcp: two families; mapped: one
    "socket_datagram": 9,  # udp: four; dns: two; mapped: two; icmp: its ping socket
    "socket_raw": 1,
    "socket_packet": 2,
    "socket_vsock": 2,
    "socket_unix": 4,
    "io_uring": 1,
    "file_outside": 2,
    "foreign_fd": 1,
}
WALLS = dict.fromkeys(NAMES, "seccomp") | {"file_outside": "namespaces", "foreign_fd": "no-inherited-fd"}
# All namespaces, no capability, another user; no filter, no Landlock, no kernel programs.
HIDDEN = tempfile.gettempdir()  # where the receivers have their paths
NAMESPACES_ALONE = f"""
bwrap --die-with-parent --as-pid-1 --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup
--ro-bind / / --ro-bind {PACKAGE_ROOT} /mnt --setenv PYTHONPATH /mnt --proc /proc --dev /dev --tmpfs {HIDDEN}
setpriv --reuid=60604 --regid=60604 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs
""".split()


def launch_bare(arguments: Sequence[str]) -> str:
    """Start the attempts without any wall, every inheritable descriptor open."""
    return output([*ATTEMPTS, *arguments], close_fds=False)


def launch_in_namespaces(arguments: Sequence[str]) -> str:
    return output([*NAMESPACES_ALONE, *ATTEMPTS, *arguments], close_fds=True)


def output(words: Sequence[str], *, close_fds: bool) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE_ROOT)}
    done = subprocess.run(
        words, env=environment, close_fds=close_fds, capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("channel", CHANNELS, ids=NAMES)
def test_the_sandbox_holds(channel: Channel, report: Report) -> None:
    (outcome,) = (found for found in report.channels if found.name == channel.NAME)
    print(outcome)
    assert not outcome.out, outcome.reason
    if outcome.control == "not applicable":
        pytest.skip(outcome.reason)
    assert outcome.blocked, outcome.reason
    assert outcome.wall == WALLS[channel.NAME]
    assert outcome.counted == f'denied{{rule="{COUNTERS[channel.NAME]}"}}'


def test_the_whole_leak_test_passes(report: Report) -> None:
    assert report.exit_status == 0
    assert report.walls["landlock"]
    assert all(report.walls.values()), report.walls


@pytest.mark.usefixtures("network")
def test_without_a_sandbox_everything_gets_out() -> None:
    bare = leaktest(CHANNELS, launch_bare, Unwatched())
    for outcome in bare.channels:
        assert verdict(outcome) == ("OUT" if outcome.control == "passed" else "not applicable"), outcome
    assert bare.exit_status == 4
    assert bare.walls == {"seccomp": False}


@pytest.mark.usefixtures("network")
def test_namespaces_alone_hold_all_but_vsock() -> None:
    """AF_VSOCK is in no namespace before Linux 7.0: the filter is its only wall, and the report says so."""
    part = leaktest(CHANNELS, launch_in_namespaces, Unwatched())
    walls = {outcome.name: outcome.wall for outcome in part.channels}
    for name in ("tcp", "udp", "dns", "mapped", "unix_path", "unix_abstract", "io_uring", "file_outside"):
        assert walls[name] == "namespaces", part
    assert (walls["icmp"], walls["packet"]) == ("users", "users")
    assert walls["foreign_fd"] == "no-inherited-fd"
    vsock = next(outcome for outcome in part.channels if outcome.name == "vsock")
    if vsock.control == "passed":
        assert vsock.out
        assert part.exit_status == 4


@pytest.mark.usefixtures("network")
def test_every_refused_call_is_counted_once() -> None:
    with device(USERS_BASE) as made, receivers(CHANNELS) as heard:
        if not heard.open["tcp"].place["port6"]:
            pytest.skip("the figures are those of a kernel with IPv6")
        made.watch.denials()
        _, results = read_lines(made.launch(["--target", heard.target("a" * 32).to_json()]).splitlines())
        denials = made.watch.denials()
    spans = [(result.begin_ns, result.end_ns) for result in results]
    within = [denial.rule for denial in denials if any(a <= denial.time_ns <= b for a, b in spans)]
    assert Counter(rule.label for rule in within) == CALLS


def launch_unsealed(made: Device, arguments: Sequence[str]) -> str:
    """Start the attempts as root in the canary's cgroup, where only the kernel programs stand in the way."""
    environment = {"PYTHONPATH": str(PACKAGE_ROOT)}
    cgroup = made.instance.cgroup(Role.CANARY).path
    return made.collect(
        lambda out: spawn(Command([*ATTEMPTS, *arguments], {1: out, 2: 2}, environment), cgroup)
    )


@pytest.mark.usefixtures("network")
def test_kernel_programs_alone_hold_all_that_is_ip() -> None:
    with device(USERS_BASE) as made:
        part = leaktest(CHANNELS, lambda arguments: launch_unsealed(made, arguments), made.watch)
    for outcome in part.channels:
        if outcome.name in IP_CHANNELS:
            assert outcome.control == "not applicable" or outcome.wall == "cgroup-bpf", outcome
            assert outcome.counted == 'denied{rule="sock_create"}' or not outcome.blocked, outcome
        elif outcome.name != "foreign_fd":
            assert outcome.out or outcome.control == "not applicable", outcome


@pytest.mark.usefixtures("network")
def test_observing_programs_count_and_let_pass() -> None:
    with device(USERS_BASE, enforce=False) as made:
        part = leaktest(CHANNELS, lambda arguments: launch_unsealed(made, arguments), made.watch)
    tcp = next(outcome for outcome in part.channels if outcome.name == "tcp")
    assert tcp.out
    assert tcp.counted == 'denied{rule="sock_create"}'


@pytest.mark.usefixtures("network")
def test_a_sandbox_that_dies_at_once_proves_nothing() -> None:
    report = leaktest(CHANNELS, lambda _: "", Unwatched())
    assert not any(outcome.blocked for outcome in report.channels)
    assert report.exit_status == 1


def test_attempts_need_the_standard_library_alone() -> None:
    """They run where the trainer's environment is, and nothing of that may be needed or changed."""
    program = (
        "import sys; import homebound.leaktest.attempts;"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)));"
        "print(*sorted(name for name in sys.modules if name.startswith('homebound')))"
    )
    path = f"import sys; sys.path.insert(0, {str(PACKAGE_ROOT)!r}); "
    words = [sys.executable, "-I", "-S", "-c", path + program]
    top, ours = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(top.split()) <= {"__main__", "homebound"}
    files = {f"homebound.leaktest.{name}" for name in (*NAMES, "attempts", "receiver", "target")}
    assert set(ours.split()) == {"homebound", "homebound.leaktest"} | files


def test_the_device_leaves_nothing_behind(report: Report) -> None:
    assert report.channels
    assert not list((cgroups.mount() / "homebound").glob("leaktest-*"))
    assert not list(Path("/sys/fs/bpf/homebound").glob("leaktest-*"))
