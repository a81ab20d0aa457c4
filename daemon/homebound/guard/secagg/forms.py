# SPDX-License-Identifier: Apache-2.0
"""What the server may ask for at each stage, read from config values into checked, frozen forms. Pure.

The names are those of flwr 1.42 (secaggplus_constants.py). Whatever is not of the form, or asks for less
protection than the settings want, is a Refusal with a code. May import: guard.checks, records, settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homebound.guard.checks import Refusal
from homebound.records import Record, Records, RecordsError, RefusalCode, bytes_of
from homebound.settings import GuardSettings

RECORD = "secaggplus_configs"
STAGE = "stage"
SETUP, SHARE_KEYS, COLLECT, UNMASK = "setup", "share_keys", "collect_masked_vectors", "unmask"
# Each neighbour costs a key agreement and some kilobytes of shares; more make no sum safer.
MOST_NEIGHBOURS = 256
# Flower's masks are drawn with 32 bits (numpy's legacy generator), so no modulus is larger.
LARGEST_MODULUS = 1 << 32
# A node number of Flower: unsigned, 64 bits, in one spelling only.
NODE = re.compile(r"0|[1-9][0-9]{0,19}")
# A key is 215 bytes of PEM, with a signature 420; a sealed pair of shares 640.
LARGEST_KEY, LARGEST_SEALED = 1024, 4096

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Setup:
    """The terms of one sum. ``number``: how many devices are asked; ``shares``: how many neighbours one has,
    itself included; ``threshold``: with so many shares the server can open a secret."""

    number: int
    shares: int
    threshold: int
    clipping_range: float
    target_range: int
    modulus: int
    max_weight: float


@dataclass(frozen=True)
class Sealed:
    """Neighbours that gave shares, and the shares as they sealed them for us."""

    sources: tuple[int, ...]
    ciphertexts: tuple[bytes, ...]


@dataclass(frozen=True)
class Lists:
    """Whose numbers are in the sum, and whose are not."""

    active: tuple[int, ...]
    dropped: tuple[int, ...]


def values_of(records: Records) -> Values | None:
    """The values of the stage that a task is, None for a task that is none. Refusal malformed."""
    found = next((record for record in records if record.name == RECORD), None)
    if found is None:
        return None
    values = dict(zip(found.keys, found.values, strict=True))
    if found.kind != "config" or not isinstance(values.get(STAGE), str):
        raise Refusal(RefusalCode.MALFORMED)
    return values


def emptied(records: Records) -> Records:
    """The same records without the stage's values. It stays in its place: the arrays are counted by it."""
    return tuple(Record(RECORD, "config", (), ()) if record.name == RECORD else record for record in records)


def read_setup(values: Values, settings: GuardSettings) -> Setup:
    """The terms, if they are good enough. Refusal malformed, secagg_too_few or secagg_threshold."""
    setup = Setup(
        _whole(values, "sample_num"), _whole(values, "share_num"), _whole(values, "threshold"),
        _real(values, "clipping_range"), _whole(values, "target_range"), _whole(values, "mod_range"),
        _real(values, "max_weight"),
    )  # fmt: skip
    modulus = setup.modulus
    if not 2 <= setup.target_range < modulus <= LARGEST_MODULUS or modulus & (modulus - 1):
        raise Refusal(RefusalCode.MALFORMED)
    if max(setup.shares, setup.threshold) > MOST_NEIGHBOURS:
        raise Refusal(RefusalCode.MALFORMED)
    if min(setup.number, setup.shares) < settings.secagg_min_devices:
        raise Refusal(RefusalCode.SECAGG_TOO_FEW)
    check_threshold(setup.threshold, setup.shares)
    return setup


def check_threshold(threshold: int, shares: int) -> None:
    """More than half of the shares. With fewer, a server could have one half open a device's private mask and
    the other half its key, and would then have its update."""
    if not shares < 2 * threshold <= 2 * shares:
        raise Refusal(RefusalCode.SECAGG_THRESHOLD)


def read_keys(values: Values) -> dict[int, tuple[bytes, bytes]]:
    """Two public keys of each neighbour, as it sent them. Refusal malformed."""
    keys: dict[int, tuple[bytes, bytes]] = {}
    for name, pair in values.items():
        if name == STAGE:
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refusal(RefusalCode.MALFORMED)
        first, second = (_bytes(item, LARGEST_KEY) for item in pair)
        keys[_node(name)] = (first, second)
    if len(keys) > MOST_NEIGHBOURS:
        raise Refusal(RefusalCode.MALFORMED)
    return keys


def read_sealed(values: Values) -> Sealed:
    """Sealed shares and who gave them. Refusal malformed."""
    sources, ciphertexts = _nodes(values, "srcs"), _list(values, "ctxts")
    if len(sources) != len(ciphertexts):
        raise Refusal(RefusalCode.MALFORMED)
    return Sealed(sources, tuple(_bytes(item, LARGEST_SEALED) for item in ciphertexts))


def read_lists(values: Values) -> Lists:
    """Who is in the sum and who is not. Refusal malformed."""
    return Lists(_nodes(values, "active_nids"), _nodes(values, "dead_nids"))


def _whole(values: Values, key: str) -> int:
    value = values.get(key)
    if type(value) is not int or not 0 < value < 1 << 63:
        raise Refusal(RefusalCode.MALFORMED)
    return value


def _real(values: Values, key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(RefusalCode.MALFORMED)
    # Within these bounds nothing that is made of it overflows.
    if not 1e-100 < value < 1e100 or not math.isfinite(value):
        raise Refusal(RefusalCode.MALFORMED)
    return float(value)


def _list(values: Values, key: str) -> list[Any]:
    value = values.get(key)
    if not isinstance(value, list) or len(value) > MOST_NEIGHBOURS:
        raise Refusal(RefusalCode.MALFORMED)
    return value


def _nodes(values: Values, key: str) -> tuple[int, ...]:
    nodes = _list(values, key)
    if any(type(node) is not int or not 0 <= node < 1 << 64 for node in nodes):
        raise Refusal(RefusalCode.MALFORMED)
    return tuple(nodes)


def _node(name: str) -> int:
    if NODE.fullmatch(name) is None or int(name) >= 1 << 64:
        raise Refusal(RefusalCode.MALFORMED)
    return int(name)


def _bytes(value: Any, most: int) -> bytes:
    try:
        content = bytes_of(value)
    except RecordsError as error:
        raise Refusal(RefusalCode.MALFORMED) from error
    if not 0 < len(content) <= most:
        raise Refusal(RefusalCode.MALFORMED)
    return content
