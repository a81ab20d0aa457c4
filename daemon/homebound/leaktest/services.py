# SPDX-License-Identifier: Apache-2.0
"""Local services that send for others: D-Bus and systemd-run, container engines, X11, sound, printers.

Whoever reaches such a socket has what sends: the connection alone is tried and closed again. A socket of ours
in /run stands for those that this host does not have. Imports the standard library only.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import BACKLOG, Listening, listening
from homebound.leaktest.target import TIMEOUT_SECONDS, Attempt, Target, try_many

NUMBER = 19
NAME = "services"
RULES = ("socket_unix",)
WALLS = ("seccomp", "namespaces")
DELIVERS = True

RUN = Path("/run")
# Sockets of the usual ones; a pattern may match several.
KNOWN = tuple(
    """
    run/dbus/system_bus_socket run/user/*/bus run/systemd/private run/systemd/io.systemd.*
    run/systemd/resolve/io.systemd.* run/docker.sock run/containerd/containerd.sock run/podman/podman.sock
    run/crio/crio.sock run/snapd.socket run/cups/cups.sock run/avahi-daemon/socket run/pcscd/pcscd.comm
    run/user/*/pulse/native run/user/*/pipewire-0 run/user/*/wayland-* tmp/.X11-unix/X* var/run/nscd/socket
    run/libvirt/libvirt-sock run/postgresql/.s.PGSQL.*
    """.split()
)
SHOWN = 24  # a host with hundreds of sockets does not need all


def attempt(target: Target) -> Attempt:
    """Connect to each service that the host has; to that of the receiver also send the token."""
    place = target.place(NAME)

    def way(path: str, data: bytes) -> Callable[[], None]:
        def reach() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
                made.settimeout(TIMEOUT_SECONDS)
                made.connect(path)
                made.sendall(data)

        return reach

    ways = {path: way(path, b"") for path in place["services"]}
    return try_many({**ways, "service": way(place["service"], target.token.encode())})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Play a service in /run that everybody may reach; OSError without the right to make a folder there."""
    folder = RUN / f"homebound-leak-{os.getpid()}"
    folder.mkdir(mode=0o755)
    path = folder / "service"
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(path))
        made.listen(BACKLOG)
        path.chmod(0o666)
        with listening({"service": str(path), "services": known()}, listeners=[made]) as heard:
            yield heard
    finally:
        path.unlink(missing_ok=True)
        folder.rmdir()


def known() -> list[str]:
    """The known services of this host that listen, as stream sockets."""
    found = [path for pattern in KNOWN for path in sorted(Path("/").glob(pattern))]
    return [str(path) for path in found if is_stream(path)][:SHOWN]


def is_stream(path: Path) -> bool:
    """Say whether somebody takes stream connections there; the connection is closed at once."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            made.settimeout(TIMEOUT_SECONDS)
            made.connect(str(path))
    except OSError:
        return False
    return True
