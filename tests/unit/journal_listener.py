# SPDX-License-Identifier: Apache-2.0
"""Run by test_journal.py in a mount namespace of its own: binds journald's socket, writes one message
through journal.py, and prints what came in as a JSON string."""

from __future__ import annotations

import json
import os
import socket
import sys

from homebound import journal


def main() -> None:
    os.environ.pop("JOURNAL_STREAM", None)
    journal.SOCKET.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(str(journal.SOCKET))
        journal.report({"type": "released", "round": 3, "payload_bytes": 2300})
        json.dump(listener.recv(65536).decode(), sys.stdout)


if __name__ == "__main__":
    main()
