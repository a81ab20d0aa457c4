# SPDX-License-Identifier: Apache-2.0
"""The metrics port: the listening socket, and the files that say who may come in, for the watcher.

The files are read once, by root, and handed over as memory: the watcher sees no folder with a private key.
May import: errors, events, rooms.instance, settings. Source: memfd_create(2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import ConfigError, HomeboundError
from homebound.events import Role
from homebound.rooms.instance import Instance
from homebound.settings import MetricsSettings

BACKLOG = 16
FILES = ("certificate", "key", "passwords")


@dataclass(frozen=True)
class MetricsPort:
    """The socket, and the contents of the files that the settings name."""

    listener: socket.socket
    files: Mapping[str, bytes]

    def descriptors(self) -> dict[str, int]:
        """By name, for one start of the watcher. The caller closes them."""
        fds = {"listen": os.dup(self.listener.fileno())}
        for name, content in self.files.items():
            fd = fds[f"file:{name}"] = os.memfd_create(f"homebound-{name}", os.MFD_CLOEXEC)
            with open(fd, "wb", closefd=False) as file:
                file.write(content)
            os.lseek(fd, 0, os.SEEK_SET)
        return fds


def build(metrics: MetricsSettings, place: Instance) -> MetricsPort:
    """Read the files, then listen. Raises ConfigError or HomeboundError."""
    files = {name: _read(name, path) for name in FILES if (path := getattr(metrics, name))}
    return MetricsPort(_listen(metrics, place), files)


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"metrics.{name} = {path} cannot be read: {error.strerror}",
            "`homebound check-config` looks at it",
        ) from error


def _listen(metrics: MetricsSettings, place: Instance) -> socket.socket:
    """Made inside the watcher's cgroup, so that what is sent on its connections counts as the watcher's."""
    family = socket.AF_INET6 if ":" in metrics.address else socket.AF_INET
    # Opened before: the watcher, as which this process passes for a moment, may not open it.
    back = place.cgroup(Role.SUPERVISOR).entrance()
    place.cgroup(Role.WATCHER).add(0)
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((metrics.address, metrics.port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise HomeboundError(
            f"the metrics port {metrics.address}:{metrics.port} cannot be had: {error.strerror}",
            "set metrics.port to a free one; each device on a host needs its own",
        ) from error
    finally:
        os.write(back, b"0")
        os.close(back)
    return listener
