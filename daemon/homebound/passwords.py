# SPDX-License-Identifier: Apache-2.0
"""Passwords for the metrics port: how one is kept, and whether a name and a password belong together.

A line is NAME:scrypt:N:R:P:SALT:HASH, salt and hash in base64. The password itself is kept nowhere. Pure but
for the random salt, which is an argument. May import: errors. Source: RFC 7914, hashlib.scrypt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from homebound.errors import ConfigError

# 16 MiB a guess, what the paper takes for a log-in: a small device answers within a second, and whoever
# guesses over the network takes little from its trainer. LENGTH_MIN makes up for it.
COST, BLOCK, PASSES = 2**14, 8, 1
# What a line may ask of the watcher; a larger number in the file would be a way to stop it.
COST_MAX, BLOCK_MAX, PASSES_MAX = 2**16, 16, 16
MEMORY_MAX = 192 << 20
SALT_BYTES, HASH_BYTES = 16, 32
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Fewer can be guessed over the network.
LENGTH_MIN = 12


@dataclass(frozen=True)
class Kept:
    """What is kept of one password."""

    cost: int
    block: int
    passes: int
    salt: bytes
    hash: bytes


# Takes the place of a name that is not there, so that the answer takes as long.
NOBODY = Kept(COST, BLOCK, PASSES, b"\0" * SALT_BYTES, b"\0" * HASH_BYTES)


def line(name: str, password: str, random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """The line to keep. Raises ConfigError for a name or a password that will not do."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"the name {name!r} will not do", "take 1 to 64 of letters, digits, . _ and -")
    if len(password) < LENGTH_MIN:
        raise ConfigError("the password is too short", f"take at least {LENGTH_MIN} characters")
    kept = Kept(COST, BLOCK, PASSES, random(SALT_BYTES), b"")
    parts = (base64.b64encode(part).decode() for part in (kept.salt, _hash(kept, password)))
    return ":".join((name, "scrypt", str(COST), str(BLOCK), str(PASSES), *parts))


def parse(text: str) -> dict[str, Kept]:
    """Name -> what is kept, of a file. Empty lines and those that begin with # are passed over.

    Raises ConfigError for a line that is none, and for a file without any: it would shut everybody out.
    """
    found: dict[str, Kept] = {}
    for number, entry in enumerate(text.splitlines(), 1):
        if entry.strip() and not entry.startswith("#"):
            name, kept = _entry(entry.strip(), number)
            if name in found:
                raise ConfigError(f"line {number} names {name} again", "keep one of the two")
            found[name] = kept
    if not found:
        raise ConfigError("has no line", "`homebound password-line NAME` prints one")
    return found


def fit(known: Mapping[str, Kept], name: str, password: str) -> bool:
    """Whether they belong together. Takes as long for a name that is not known."""
    kept = known.get(name, NOBODY)
    same = hmac.compare_digest(_hash(kept, password), kept.hash)
    return same and name in known


def _entry(entry: str, number: int) -> tuple[str, Kept]:
    try:
        name, kind, cost, block, passes, salt, digest = entry.split(":")
        kept = Kept(
            int(cost), int(block), int(passes),
            base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True),
        )  # fmt: skip
    except (ValueError, binascii.Error) as error:
        raise _no_line(number) from error
    if not NAME.fullmatch(name) or kind != "scrypt" or not _bearable(kept):
        raise _no_line(number)
    return name, kept


def _bearable(kept: Kept) -> bool:
    within = 1 < kept.cost <= COST_MAX and 1 <= kept.block <= BLOCK_MAX and 1 <= kept.passes <= PASSES_MAX
    power = kept.cost & (kept.cost - 1) == 0
    return within and power and len(kept.salt) >= SALT_BYTES and len(kept.hash) == HASH_BYTES


def _no_line(number: int) -> ConfigError:
    return ConfigError(f"line {number} is no line of passwords", "`homebound password-line NAME` prints one")


def _hash(kept: Kept, password: str) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=kept.salt, n=kept.cost, r=kept.block, p=kept.passes,
        maxmem=MEMORY_MAX, dklen=HASH_BYTES,
    )  # fmt: skip
