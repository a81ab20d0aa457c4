# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that a setting may have: each with its test, and what it wants in words.

Lean: the standard library and annotated_types. Imports nothing of ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Predicate

Mode = Literal["enforce", "observe"]
Loader = Literal["auto", "libbpf", "bcc"]
Wall = Literal["namespaces", "seccomp", "landlock", "cgroup-bpf", "bpf-lsm"]
Scalar = str | int | float | bool


def is_name(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9-]{1,32}", text) is not None


def is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def is_path(text: str) -> bool:
    """Absolute, and free of ``..`` and of NUL, so that what is checked is what is opened."""
    return text.startswith("/") and "\0" not in text and ".." not in text.split("/")


def is_path_or_empty(text: str) -> bool:
    return not text or is_path(text)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a scope, fe80::1%eth0, would need an interface that is there


def endpoint(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port``; ValueError when it is neither."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})", text)
    if match is None:
        raise ValueError(text)
    bracketed, plain, port = match.group(1), match.group(2), int(match.group(3))
    if not 1 <= port <= 65535:
        raise ValueError(text)
    if bracketed:
        ipaddress.IPv6Address(bracketed)
        return bracketed, port
    if re.fullmatch(r"[0-9.]+", plain):  # 1.2.3 or 999.1.1.1 is a mistyped address, not a name
        ipaddress.IPv4Address(plain)
    return plain, port


def is_endpoint(text: str) -> bool:
    try:
        endpoint(text)
    except ValueError:
        return False
    return True


Name = Annotated[str, Predicate(is_name)]
Sha256 = Annotated[str, Predicate(is_sha256)]
AbsolutePath = Annotated[str, Predicate(is_path)]
OptionalPath = Annotated[str, Predicate(is_path_or_empty)]
Endpoint = Annotated[str, Predicate(is_endpoint)]
Address = Annotated[str, Predicate(is_address)]

# What a predicate wants, in words; a message and the reference use them.
PREDICATE_FORMS: Mapping[str, str] = {
    "is_name": "1 to 32 of a-z, 0-9 and -",
    "is_sha256": "64 lower-case hexadecimal digits",
    "is_path": "an absolute path with no .. in it",
    "is_path_or_empty": "an absolute path with no .. in it, or nothing",
    "is_endpoint": "host:port, 192.0.2.1:port or [IPv6]:port",
    "is_address": "an IP address such as 127.0.0.1, ::1 or 0.0.0.0",
}


def about(help: str, unit: str = "", example: object = None) -> dict[str, Any]:
    """The words that go with a setting; ``example`` is for those without a default."""
    return {"help": help, "unit": unit, "example": example}
