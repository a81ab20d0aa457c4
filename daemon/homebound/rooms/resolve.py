# SPDX-License-Identifier: Apache-2.0
"""The federation's name -> address, asked by the supervisor so that the gateway needs no DNS.

The question is asked in a child with a time limit: a resolver may hang for long, the supervisor may not.
May import: errors. Source: getaddrinfo(3), resolv.conf(5).
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from homebound.errors import ServiceUnavailable

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


def addresses(host: str, seconds: float = SECONDS) -> Sequence[str]:
    """The addresses of ``host`` in the order of RFC 6724, as getaddrinfo gives them.

    Raises ServiceUnavailable when it has none or nobody answers in time.
    """
    if is_address(host):
        return [host]
    command = [sys.executable, "-I", "-c", QUESTION, host]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=True)
        found: list[str] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise ServiceUnavailable(
            f"the name {host} cannot be resolved",
            "check federation.address and this host's DNS, or give the address as a number",
        ) from error
    return list(dict.fromkeys(found))


def nameservers(file: Path = Path("/etc/resolv.conf")) -> Sequence[str]:
    """The servers that this host asks, so that they can be allowed while a question is open."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    named = [word[1].split("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return [server for server in named if is_address(server)]
