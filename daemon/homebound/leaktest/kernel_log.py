# SPDX-License-Identifier: Apache-2.0
"""The kernel's log and syslog: what is written there goes to consoles, netconsole, the journal's forwarders.

``attempt`` runs inside the sandbox, ``receiver`` reads the kernel's log outside; the control leaves one
line in it. Imports the standard library only. Source: kmsg (Documentation/ABI/testing/dev-kmsg), syslog(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Listening, listening
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 22
NAME = "kernel_log"
RULES = ("file_outside", "socket_unix")
WALLS = ("namespaces", "landlock", "users")
DELIVERS = True

DEVICE = "/dev/kmsg"
SYSLOG = Path("/dev/log")
USER_NOTICE = b"<13>"  # syslog(3): facility 1, level 5


def attempt(target: Target) -> Attempt:
    """Write a line to the device, as a shell's ``>`` would, and send one to the syslog socket if there is
    one."""
    # Without its end the kernel would wait for the rest of the line (KERN_CONT).
    line = USER_NOTICE + b"homebound-leak " + target.token.encode() + b"\n"

    def write() -> None:
        fd = os.open(DEVICE, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def send() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.connect(str(SYSLOG))
            made.send(line)

    return try_each({"kmsg": write, **({"syslog": send} if target.place(NAME)["syslog"] else {})})


@contextmanager
def receiver(_folder: Path) -> Iterator[Listening]:
    """Read what comes into the kernel's log from now on; OSError where root may not."""
    fd = os.open(DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.lseek(fd, 0, os.SEEK_END)
    with listening({"syslog": SYSLOG.exists()}, readers=[fd]) as made:
        yield made
