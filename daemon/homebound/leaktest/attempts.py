# SPDX-License-Identifier: Apache-2.0
"""The list of channels, and the runner that tries them: ``python -m homebound.leaktest.attempts``.

Runs inside the sandbox: sees the token and the places of the receivers. Writes one JSON object a line, first
the facts of the process, then one a channel with its times, so that kernel events can be matched by time.
Imports the standard library and the channel files only.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from homebound.leaktest import (
    core_dump,
    devices,
    disk,
    dns,
    families,
    fastopen,
    file_outside,
    foreign_abi,
    foreign_fd,
    icmp,
    io_uring,
    kernel_doors,
    kernel_log,
    keyring,
    leave_cgroup,
    mapped,
    netlink,
    network_mounts,
    new_namespace,
    packet,
    planted_code,
    quic,
    rdma,
    removable,
    scm_rights,
    services,
    shared_memory,
    signals,
    swap,
    tcp,
    trace,
    transports,
    tun,
    udp,
    unix_abstract,
    unix_path,
    vsock,
)
from homebound.leaktest.receiver import Receiver
from homebound.leaktest.target import Attempt, Named, Target, errno_name

# Between two attempts, so that an event that comes late is not taken for the next attempt's.
PAUSE_SECONDS = 0.02
# A family that no kernel has: the kernel itself answers EAFNOSUPPORT, so EPERM can only come from a filter
# that stands before it (net/socket.c, __sock_create, checks the range before anything else).
NO_FAMILY = 0x7FFF
# A folder in the sandbox that only Landlock closes (the same path is in kernel/sandbox.py).
LANDLOCK_TRIAL = "/run/landlock-trial"


class Channel(Named, Protocol):
    """What a channel file has."""

    def attempt(self, target: Target, /) -> Attempt:
        """Try the channel, inside."""

    def receiver(self, folder: Path, /) -> AbstractContextManager[Receiver]:
        """Listen, outside; the folder is empty, open to everybody, and the receiver's own."""


# In the order in which they are tried and shown: by what they are, not by number.
CHANNELS: tuple[Channel, ...] = (
    *(tcp, fastopen, udp, quic, dns, transports, mapped, icmp),  # IP
    *(packet, vsock, families, netlink, unix_path, services, unix_abstract),  # other sockets
    *(io_uring, foreign_abi, foreign_fd, scm_rights),  # round the walls
    *(file_outside, planted_code, disk, removable, network_mounts),  # files
    *(devices, tun, rdma, kernel_log, core_dump, swap),  # hardware and the kernel's own ways
    *(trace, signals, shared_memory, keyring),  # other processes
    *(new_namespace, leave_cgroup, kernel_doors),  # out of the box
)
NAMES: tuple[str, ...] = tuple(channel.NAME for channel in CHANNELS)


def channel_named(name: str) -> Channel:
    """Return a channel; KeyError when there is none of that name."""
    return {channel.NAME: channel for channel in CHANNELS}[name]


def facts() -> dict[str, Any]:
    """Return what the process knows of its own walls, tried and read.

    {"seccomp": 0|1|2, "socket_refused": bool, "landlock": bool|None, "capabilities": int, "uid": int,
    "links": int}; -1 where /proc does not say, None where the trial folder is missing. ``links``: network
    devices beside the loopback's.
    """
    status: dict[str, str] = {}
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        pass
    return {
        "seccomp": int(status.get("Seccomp", "-1")),
        "socket_refused": _socket_refused(),
        "capabilities": int(status.get("CapEff", "-1"), 16),
        "landlock": _landlock_refuses(),
        "uid": os.getuid(),
        "links": _links(),
    }


def _links() -> int:
    try:
        lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return -1
    return len({line.split(":")[0].strip() for line in lines} - {"lo"})


def _socket_refused() -> bool:
    try:
        socket.socket(NO_FAMILY, socket.SOCK_STREAM).close()
    except OSError as error:
        return errno_name(error) == "EPERM"
    return False


def _landlock_refuses() -> bool | None:
    folder = Path(LANDLOCK_TRIAL)
    if not folder.is_dir():
        return None
    try:
        (folder / "trial").touch()
    except PermissionError as error:
        return errno_name(error) == "EACCES"
    return False


def run(names: Sequence[str], target: Target) -> Iterator[Mapping[str, Any]]:
    """Try the named channels in order and yield one result each, as soon as it is there.

    {"name", "number", "begin_ns", "end_ns", "sent", "errno", "detail"}; times are CLOCK_MONOTONIC, the clock
    of the kernel's events. An attempt that breaks off by itself has no errno: nothing was refused.
    """
    for name in names:
        channel = channel_named(name)
        time.sleep(PAUSE_SECONDS)
        begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        try:
            answer = channel.attempt(target)
        except Exception as error:  # noqa: BLE001 - a broken attempt is an answer, and never "blocked"
            answer = Attempt(sent=False, error="", detail=f"broke off: {type(error).__name__}: {error}")
        end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        yield {
            "name": name,
            "number": channel.NUMBER,
            "begin_ns": begin,
            "end_ns": end,
            "sent": answer.sent,
            "errno": answer.error,
            "detail": answer.detail,
        }


def main(arguments: Sequence[str]) -> int:
    """Write the facts and the results to standard output; status 0 when every attempt gave an answer."""
    parser = argparse.ArgumentParser(prog="homebound.leaktest.attempts", description="try the ways out")
    parser.add_argument("--target", required=True, help="JSON: the token and the places of the receivers")
    parser.add_argument("--channel", action="append", choices=NAMES, help="only this one; may be repeated")
    given = parser.parse_args(arguments)
    target = Target.from_json(given.target)
    names = given.channel or [name for name in NAMES if name in target.places]
    sys.stdout.write(json.dumps({"facts": facts()}) + "\n")
    for result in run(names, target):
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
