# SPDX-License-Identifier: Apache-2.0
"""`python -m homebound.watcher`: takes what it was handed, serves the metrics port and watches.

May import: control, metrics, kernel.maps, kernel.usage, passwords, watcher.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from homebound import control, passwords
from homebound.kernel.maps import EventStream
from homebound.kernel.usage import OpenFiles
from homebound.watcher import door, endpoint, page, readings
from homebound.watcher.app import Watcher, parse
from homebound.watcher.recording import application

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def main(words: Sequence[str] | None = None) -> int:
    """``python -m homebound.watcher --control FD --settings-fd FD``: started by the supervisor."""
    parser = argparse.ArgumentParser(prog="homebound-watcher")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--settings-fd", type=int, required=True)
    given = parser.parse_args(words)
    # At a terminal Ctrl-C reaches every process; who ends when is the supervisor's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(given.settings_fd, encoding="utf-8") as file:
        handed = parse(file.read())
    cgroups = {role: OpenFiles(fds) for role, fds in handed.cgroups.items()}
    registry = CollectorRegistry()
    link = socket.socket(fileno=given.control)
    ring = handed.maps["events"]
    try:
        with EventStream(ring) as stream:
            counters = readings.MapCounters(handed.maps)
            watcher = Watcher(handed, link, counters, stream, cgroups, registry)
            routes = endpoint.route(
                application(registry),
                watcher.healthy,
                lambda: page.render(page.Samples(registry.collect()), watcher.glance(), time.time()),
                page.HEADERS,
            )
            _open_port(socket.socket(fileno=handed.listen_fd), routes, handed.files)
            watcher.run(ring)
    except control.ControlClosed as error:
        sys.stderr.write(f"homebound watcher: {error.message}; the trainer is ended\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"homebound watcher: cannot read the kernel's counters: {error.strerror}\n")
        return 1
    return 0


def _open_port(listener: socket.socket, routes: WSGIApplication, files: Mapping[str, int]) -> None:
    """Serve, to whom the handed files let in. They are closed: what is in them is in memory then."""
    paths = {name: f"/proc/self/fd/{fd}" for name, fd in files.items()}
    tls = door.tls(paths["certificate"], paths.get("key", "")) if "certificate" in paths else None
    if "passwords" in paths:
        with open(paths["passwords"], encoding="utf-8") as file:
            routes = door.ask(routes, door.Passwords(passwords.parse(file.read())))
    for fd in files.values():
        os.close(fd)
    endpoint.serve(listener, routes, tls)


if __name__ == "__main__":
    sys.exit(main())
