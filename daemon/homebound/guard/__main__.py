# SPDX-License-Identifier: Apache-2.0
"""The guard's process: takes its links and settings as descriptors and serves until it is told to stop.

Started by the supervisor as ``python -m homebound.guard``, behind its walls. May import: this room,
control, books.ledger, books.signing, errors.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path

from homebound.books import ledger
from homebound.books.signing import Signer, read_key
from homebound.channel import ChannelClosed
from homebound.errors import HomeboundError
from homebound.guard import memory
from homebound.guard.app import Guard
from homebound.guard.books import Books
from homebound.guard.credit import Purse
from homebound.guard.noise import gaussian
from homebound.guard.options import read_options
from homebound.guard.secagg.session import Session


def main() -> int:
    """Serve; the exit status is that of the error that ended it, 0 after the word to stop."""
    parser = argparse.ArgumentParser(prog="homebound-guard")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--gateway", type=int, required=True)
    parser.add_argument("--settings-fd", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--key-fd", type=int, help="has the ledger's key, in place of a file of our own")
    parser.add_argument("--credit-fd", type=int, help="is the map by which the gateway is let send")
    arguments = parser.parse_args()
    memory.give_back()
    try:
        with os.fdopen(arguments.settings_fd, "rb") as file:
            options = read_options(file.read())
        signer = _handed_key(arguments.key_fd) if arguments.key_fd is not None else None
        writer = ledger.open_writer(arguments.state / ledger.FILE, time.time, signer, options.anchor)
        try:
            Guard(
                options,
                socket.socket(fileno=arguments.control),
                socket.socket(fileno=arguments.gateway),
                Books(writer, options.guard, time.time),
                Purse(arguments.credit_fd, time.monotonic),
                Session(options.guard, writer, os.urandom),
                time.monotonic,
                gaussian,
            ).run()
        finally:
            writer.close()
    except ChannelClosed as error:
        return error.exit_status  # the gateway ended first; the supervisor knows whether it was told to
    except HomeboundError as error:
        sys.stderr.write(f"homebound: the guard ends: {error}\n")
        return error.exit_status
    return 0


def _handed_key(fd: int) -> Signer:
    with os.fdopen(fd, "rb") as file:
        return read_key(file.read(), "the credential that was handed over")


if __name__ == "__main__":
    sys.exit(main())
