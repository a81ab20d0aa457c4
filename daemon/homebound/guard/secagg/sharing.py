# SPDX-License-Identifier: Apache-2.0
"""Shamir's secret sharing, in the form in which flwr 1.42's server puts shares together. Pure.

A secret is padded (PKCS #7) to blocks of 16 bytes; each block is shared over GF(2^128) with the polynomial
x^128 + x^7 + x^2 + x + 1, and share number i is the value at i. All blocks are computed as one large number
with a lane for each: a device is small, and Python has no faster field. Imports nothing of ours.
Source: Shamir 1979, "How to share a secret"; PyCryptodome's documentation of Crypto.Protocol.SecretSharing.
"""

from __future__ import annotations

from collections.abc import Callable

BLOCK = 16
# A block of 128 bits times a share's number of at most 16.
LANE = 160
INDEX_BYTES = 4


def split(secret: bytes, threshold: int, count: int, randomness: Callable[[int], bytes]) -> tuple[bytes, ...]:
    """``count`` shares of which any ``threshold`` give the secret, and fewer say nothing about it."""
    padding = BLOCK - len(secret) % BLOCK
    padded = secret + bytes([padding]) * padding
    blocks = len(padded) // BLOCK
    terms = [_lanes(randomness(len(padded))) for _ in range(threshold - 1)]
    terms.append(_lanes(padded))
    shares = []
    for index in range(1, count + 1):
        value = 0
        for term in terms:
            value = _times(value, index, blocks) ^ term
        shares.append(index.to_bytes(INDEX_BYTES, "little") + _unlanes(value, blocks))
    return tuple(shares)


def _lanes(content: bytes) -> int:
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    return sum(int.from_bytes(block, "big") << (LANE * number) for number, block in enumerate(blocks))


def _unlanes(value: int, blocks: int) -> bytes:
    low = (1 << 128) - 1
    return b"".join(((value >> (LANE * number)) & low).to_bytes(BLOCK, "big") for number in range(blocks))


def _in_each_lane(bits: int, blocks: int) -> int:
    return sum(bits << (LANE * number) for number in range(blocks))


def _times(value: int, index: int, blocks: int) -> int:
    """Each lane times a small number, in the field."""
    product = 0
    while index:
        if index & 1:
            product ^= value
        value <<= 1
        index >>= 1
    low = _in_each_lane((1 << 128) - 1, blocks)
    high = (product & ~low) >> 128
    return (product & low) ^ high ^ (high << 1) ^ (high << 2) ^ (high << 7)
