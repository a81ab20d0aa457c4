# SPDX-License-Identifier: Apache-2.0
"""Nothing gets out of the real sandbox; without any, the same test says what does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from homebound.kernel import cgroups
from homebound.leaktest.attempts import CHANNELS, NAMES, Channel, channel_named
from homebound.leaktest.device import device
from homebound.leaktest.judge import read_lines
from homebound.leaktest.run import PACKAGE_ROOT, Report, Unwatched, leaktest, receivers, verdict
from leaks.conftest import USERS_BASE

pytestmark = pytest.mark.root

ATTEMPTS = [sys.executable, "-B", "-s", "-m", "homebound.leaktest.attempts"]
# The wall that meets each channel first, and the counter that sees it, "" where no call is refused.
HELD: Mapping[str, tuple[str, str]] = {
    "tcp": ("seccomp", "socket_stream"),
    "fastopen": ("seccomp", "socket_stream"),
    "udp": ("seccomp", "socket_datagram"),
    "quic": ("seccomp", "socket_datagram"),
    "dns": ("seccomp", "socket_datagram"),
    "transports": ("seccomp", "socket_stream"),
    "mapped": ("seccomp", "socket_stream"),
    "icmp": ("seccomp", "socket_raw"),
    "packet": ("seccomp", "socket_packet"),
    "vsock": ("seccomp", "socket_vsock"),
    "families": ("seccomp", "socket_other"),
    "netlink": ("seccomp", "socket_netlink"),
    "unix_path": ("seccomp", "socket_unix"),
    "services": ("seccomp", "socket_unix"),
    "unix_abstract": ("seccomp", "socket_unix"),
    "io_uring": ("seccomp", "io_uring"),
    "foreign_abi": ("seccomp", "socket_other"),
    "foreign_fd": ("no-inherited-fd", "foreign_fd"),
    "scm_rights": ("no-inherited-fd", "foreign_fd"),
    "file_outside": ("namespaces", "file_outside"),
    "planted_code": ("namespaces", "file_outside"),
    "disk": ("namespaces", "file_outside"),
    "removable": ("seccomp", "namespace"),
    "network_mounts": ("namespaces", "namespace"),
    "devices": ("namespaces", "file_outside"),
    "tun": ("namespaces", "file_outside"),
    "rdma": ("namespaces", "file_outside"),
    "kernel_log": ("namespaces", "file_outside"),
    "core_dump": ("no-core-dump", ""),
    "swap": ("no-swap", ""),
    "trace": ("namespaces", "trace"),
    "signals": ("namespaces", ""),
    "shared_memory": ("seccomp", "kernel"),
    "keyring": ("seccomp", "kernel"),
    "new_namespace": ("seccomp", "namespace"),
    "leave_cgroup": ("namespaces", "namespace"),
    "kernel_doors": ("seccomp", "kernel"),
}
# Channels whose refused calls are the same on every host, and how many these are, by rule.
STEADY = (
    *("tcp", "udp", "dns", "mapped", "icmp", "packet", "vsock", "unix_path", "unix_abstract", "io_uring"),
    *("file_outside", "foreign_fd"),
)
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


def launch_bare(arguments: Sequence[str]) -> str:
    """Start the attempts without any wall, every inheritable descriptor open."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE_ROOT)}
    words = [*ATTEMPTS, *arguments]
    done = subprocess.run(
        words, env=environment, close_fds=False, capture_output=True, text=True, cwd="/", check=False
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
    wall, counter = HELD[channel.NAME]
    assert outcome.wall == wall
    assert outcome.counted == (f'denied{{rule="{counter}"}}' if counter else "")


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
def test_every_refused_call_is_counted_once() -> None:
    with device(USERS_BASE) as made, receivers([channel_named(name) for name in STEADY]) as heard:
        if not heard.open["tcp"].place["port6"]:
            pytest.skip("the figures are those of a kernel with IPv6")
        made.watch.denials()
        _, results = read_lines(made.launch(["--target", heard.target("a" * 32).to_json()]).splitlines())
        denials = made.watch.denials()
    spans = [(result.begin_ns, result.end_ns) for result in results]
    within = [denial.rule for denial in denials if any(a <= denial.time_ns <= b for a, b in spans)]
    assert Counter(rule.label for rule in within) == CALLS


@pytest.mark.usefixtures("network")
def test_a_sandbox_that_dies_at_once_proves_nothing() -> None:
    few = [channel_named(name) for name in ("tcp", "vsock", "file_outside", "keyring")]
    report = leaktest(few, lambda _: "", Unwatched())
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
    beside = ("attempts", "nodes", "receiver", "target", "victim")
    files = {f"homebound.leaktest.{name}" for name in (*NAMES, *beside)}
    assert set(ours.split()) == {"homebound", "homebound.leaktest"} | files


def test_the_device_leaves_nothing_behind(report: Report) -> None:
    assert report.channels
    assert not list((cgroups.mount() / "homebound").glob("leaktest-*"))
    assert not list(Path("/sys/fs/bpf/homebound").glob("leaktest-*"))
    assert not list(cgroups.mount().glob("homebound-leak-*"))
    assert not list(Path("/run").glob("homebound-leak-*"))
    assert not list(Path("/dev/shm").glob("homebound-leak-*"))
