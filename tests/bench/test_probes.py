# SPDX-License-Identifier: Apache-2.0
"""What watching costs: time to load, nanoseconds a run of each program, and what a workload loses by it.

Prints; asserts only that there was something to measure. The kernel's own run statistics are on while it
measures and add about 30 ns to each run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homebound.events import Role
from homebound.kernel import features, maps
from homebound.kernel.job import Loader
from homebound.kernel.probes import Probes
from kernel.rig import child, in_child, in_fresh_network, remove_cgroup

pytestmark = pytest.mark.root

OBJECTS = Path(__file__).resolve().parents[2] / "daemon/homebound/bpf_objects"
ROUNDS = 20_000
MEGABYTES = 512


def nanoseconds(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Mean time of one call."""
    began = time.perf_counter_ns()
    for _ in range(rounds):
        action()
    return (time.perf_counter_ns() - began) / rounds


def succeed() -> None:
    os.getppid()


def fail() -> None:
    with contextlib.suppress(OSError):
        os.close(-1)  # EBADF: passes the first filter of hb_syscall_exit, and is no rule of ours


def refuse() -> None:
    with contextlib.suppress(PermissionError):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def pump(port: int) -> float:
    """Send MEGABYTES by TCP; returns seconds."""
    block = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as client:
        began = time.perf_counter()
        for _ in range(MEGABYTES):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
        return time.perf_counter() - began


def transfer(cgroup: Path, allow: Callable[[int], None]) -> Any:
    """Seconds that a task of that cgroup needs for MEGABYTES over loopback."""

    def scene() -> Any:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            allow(port)
            with child(lambda: pump(port), cgroup) as result:
                peer = server.accept()[0]
                buffer = bytearray(1 << 20)
                while peer.recv_into(buffer):
                    pass
                peer.close()
                return result()

    return in_fresh_network(scene)


@pytest.mark.parametrize("loader", ["libbpf", "bcc"])
def test_cost(loader: Loader) -> None:
    """The table."""
    mount = features.cgroup2_mounts()[0]
    root = mount / f"homebound-bench-{os.getpid()}"
    for role in Role:
        (root / role.label).mkdir(parents=True)
    pins = Path("/sys/fs/bpf") / root.name
    level = len(root.relative_to(mount).parts) + 1
    try:
        bare = {
            "getppid": nanoseconds(succeed),
            "failing close": nanoseconds(fail),
            "seconds": transfer(root / "gateway", lambda _: None),
        }
        began = time.perf_counter()
        probes = Probes.load(OBJECTS, root, level, True, pins, loader=loader)
        print(f"\n{loader}: load, attach and pin: {(time.perf_counter() - began) * 1e3:.1f} ms")
        try:
            measure(probes, root, bare)
        finally:
            probes.remove()
    finally:
        remove_cgroup(root)


def measure(probes: Probes, root: Path, bare: dict[str, float]) -> None:
    for role in Role:
        if role is not Role.NONE:
            probes.assign((root / role.label).stat().st_ino, role)
    trainer = root / "trainer"
    outside = nanoseconds(succeed), nanoseconds(fail)
    inside = in_child(lambda: [nanoseconds(succeed), nanoseconds(fail)], trainer)
    in_child(lambda: nanoseconds(refuse, 2_000), trainer)
    seconds = transfer(root / "gateway", lambda port: probes.allow(Role.GATEWAY, "127.0.0.1", port))
    print(f"{'system call':16}{'bare':>10}{'host':>10}{'trainer':>10}   ns")
    for index, name in enumerate(("getppid", "failing close")):
        print(f"{name:16}{bare[name]:10.0f}{outside[index]:10.0f}{inside[index]:10.0f}")
    print(
        f"TCP over loopback: {MEGABYTES / bare['seconds']:.0f} MB/s bare, {MEGABYTES / seconds:.0f} counted"
    )
    print(f"{'program':18}{'runs':>10}{'ns a run':>10}")
    states = probes.programs()
    for state in states:
        print(f"{state.name:18}{state.runs:10}{state.run_seconds * 1e9 / max(state.runs, 1):10.0f}")
    assert all(state.attached for state in states)
    assert min(state.runs for state in states if state.name in ("hb_egress", "hb_syscall_exit")) > 0
    reads = {
        "traffic": lambda: maps.read_traffic(probes.map_fd("traffic")),
        "denied": lambda: maps.read_denied(probes.map_fd("denied")),
    }
    for name, read in reads.items():
        print(f"reading {name}: {nanoseconds(read, 20) / 1e6:.2f} ms")
