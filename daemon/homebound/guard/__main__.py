# SPDX-License-Identifier: Apache-2.0
"""The guard's process: takes its links and settings as descriptors and serves until it is told to stop.

Started by the supervisor as ``python -m homebound.guard``, behind its walls. May import: this room,
control, ledger, errors.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path

from homebound import ledger
from homebound.errors import HomeboundError
from homebound.guard.app import Guard
from homebound.guard.options import read_options
from homebound.guard.privacy import gaussian


def main() -> int:
    """Serve; the exit status is that of the error that ended it, 0 after the word to stop."""
    parser = argparse.ArgumentParser(prog="homebound-guard")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--gateway", type=int, required=True)
    parser.add_argument("--settings-fd", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        with os.fdopen(arguments.settings_fd, "rb") as file:
            options = read_options(file.read())
        writer = ledger.open_writer(arguments.state / ledger.FILE, time.time)
        try:
            Guard(
                options,
                socket.socket(fileno=arguments.control),
                socket.socket(fileno=arguments.gateway),
                writer,
                time.monotonic,
                gaussian,
            ).run()
        finally:
            writer.close()
    except HomeboundError as error:
        sys.stderr.write(f"homebound: the guard ends: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
