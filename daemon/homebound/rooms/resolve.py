# SPDX-License-Identifier: Apache-2.0
"""The federation's name -> address, asked by the supervisor so that the gateway needs no DNS.

The question is asked in a child with a time limit: a resolver may hang for long, the supervisor may not.
May import: errors, rooms.patience. Source: getaddrinfo(3), resolv.conf(5).
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from homebound.errors import ServiceUnavailable
from homebound.rooms.patience import LOOK_SECONDS, Told, ToldToStop, never

SECONDS = 10.0
DNS_PORT = 53
QUESTION = (
    "import json, socket, sys; "
    "found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM); "
    "json.dump([entry[4][0] for entry in found], sys.stdout)"
)


def is_address(host: str) -> bool:
    """Whether ``host`` is an address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def addresses(host: str, seconds: float = SECONDS, told: Told = never) -> Sequence[str]:
    """The addresses of ``host`` in the order of RFC 6724, as getaddrinfo gives them.

    Raises ServiceUnavailable when it has none or nobody answers in time, ToldToStop.
    """
    if is_address(host):
        return [host]
    try:
        found: list[str] = json.loads(_ask(host, seconds, told))
    except ValueError as error:
        raise ServiceUnavailable(
            f"the name {host} cannot be resolved",
            "check federation.address and this host's DNS, or give the address as a number",
        ) from error
    return list(dict.fromkeys(found))


def _ask(host: str, seconds: float, told: Told) -> str:
    """What the child printed; "" when it failed or took too long."""
    deadline = time.monotonic() + seconds
    words = [sys.executable, "-I", "-c", QUESTION, host]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        while (left := deadline - time.monotonic()) > 0 and not told():
            try:
                return child.communicate(timeout=min(left, LOOK_SECONDS))[0]
            except subprocess.TimeoutExpired:
                continue
        child.kill()
    if told():
        raise ToldToStop
    return ""


def nameservers(file: Path = Path("/etc/resolv.conf")) -> Sequence[str]:
    """The servers that this host asks, so that they can be allowed while a question is open."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    named = [word[1].split("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return [server for server in named if is_address(server)]
