# SPDX-License-Identifier: Apache-2.0
"""`python -m homebound.watcher`: takes what it was handed, serves the metrics port and watches.

May import: control, metrics, kernel.maps, kernel.usage, watcher.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from homebound import control
from homebound.kernel.maps import EventStream
from homebound.kernel.usage import OpenFiles
from homebound.metrics import application
from homebound.watcher import endpoint, page, readings
from homebound.watcher.app import Watcher, parse


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
            endpoint.serve(socket.socket(fileno=handed.listen_fd), routes)
            watcher.run(ring)
    except control.ControlClosed as error:
        sys.stderr.write(f"homebound watcher: {error.message}; the trainer is ended\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"homebound watcher: cannot read the kernel's counters: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
