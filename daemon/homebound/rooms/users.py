# SPDX-License-Identifier: Apache-2.0
"""Whom a role runs as: the host's user of its name, or a number of its own where there is none.

Reads the host's user and group lists, decides nothing about rights. May import: errors.
Source: passwd(5), group(5), sysusers.d(5).
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Sequence

from homebound.errors import ConfigError


def identity(role: str, number: int, base: int) -> tuple[int, int]:
    """User and group number of ``role`` ("trainer"), whose place among the roles is ``number`` (3).

    Raises ConfigError when the user ``homebound-ROLE`` is missing and ``base`` is 0.
    """
    name = f"homebound-{role}"
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if base == 0:
            raise ConfigError(
                f"the user {name} does not exist and users.base is 0",
                "create it, or set users.base to the first of 8 free numbers",
            ) from None
        return base + number, base + number
    return entry.pw_uid, entry.pw_gid


def exists(name: str) -> bool:
    """Whether the host has this user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def name_of(uid: int) -> str:
    """The user that has this number; empty when it is free."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def group_numbers(names: Sequence[str]) -> tuple[int, ...]:
    """The numbers of these groups. Raises ConfigError for one that does not exist."""
    numbers = []
    for name in names:
        try:
            numbers.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            raise ConfigError(f"the group {name} does not exist", f"groupadd --system {name}") from None
    return tuple(numbers)
