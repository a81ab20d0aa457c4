# SPDX-License-Identifier: Apache-2.0
"""Shares, seals and masks are those of Flower's own code, number for number."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
from flwr.common.secure_aggregation.crypto import shamir, symmetric_encryption
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound.books.signing import Signer
from homebound.guard.checks import CHUNK
from homebound.guard.secagg import masking, sealing, sharing
from homebound.guard.secagg.forms import Setup
from homebound.guard.secagg.sealing import Broken, Shares

SETUP = Setup(3, 3, 2, 8.0, 1 << 22, 1 << 32, 1000.0)
PREFIX = b"test\0"


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=330), st.integers(2, 9), st.integers(0, 7))
def test_flower_puts_our_shares_together(secret: bytes, threshold: int, more: int) -> None:
    shares = list(sharing.split(secret, threshold, threshold + more, os.urandom))
    random.Random(1).shuffle(shares)
    assert shamir.combine_shares(shares[:threshold]) == secret


def test_one_share_too_few_gives_nothing() -> None:
    secret = os.urandom(32)
    shares = sharing.split(secret, 4, 6, os.urandom)
    try:
        assert shamir.combine_shares(list(shares[:3])) != secret
    except ValueError:  # it does not even look like a secret
        return


def test_the_largest_neighbourhood() -> None:
    shares = sharing.split(b"secret", 171, 256, os.urandom)
    assert shamir.combine_shares(list(shares[-171:])) == b"secret"


def test_a_neighbour_with_flowers_own_code_reads_what_we_seal_and_we_what_it_seals() -> None:
    ours, theirs = sealing.make_pair(), sealing.make_pair()
    agreed = sealing.agree(ours.key, sealing.public_key(theirs.public))
    stock = symmetric_encryption.generate_shared_key(
        bytes_to_private_key(theirs.private), bytes_to_public_key(ours.public)
    )
    assert agreed == stock
    sealed = sealing.seal(agreed, 5, 2**63, Shares(b"mask", b"key"))
    plain = symmetric_encryption.decrypt(stock, sealed)
    assert share_keys_plaintext_separate(plain) == (5, 2**63, b"mask", b"key")
    back = symmetric_encryption.encrypt(stock, share_keys_plaintext_concat(2**63, 5, b"mask", b"key"))
    assert sealing.unseal(agreed, 2**63, 5, back) == Shares(b"mask", b"key")


@pytest.mark.parametrize(
    "plain", [b"", b"short", bytes(20), bytes(8) + b"\1" + bytes(7) + b"\xff" * 4 + b"x"]
)
def test_what_was_sealed_for_somebody_else_is_broken(plain: bytes) -> None:
    agreed = sealing.agree(sealing.make_pair().key, sealing.make_pair().key.public_key())
    with pytest.raises(Broken):
        sealing.unseal(agreed, 0, 1, symmetric_encryption.encrypt(agreed, plain))
    with pytest.raises(Broken):
        sealing.unseal(agreed, 0, 1, plain)


def test_flower_reads_a_key_that_is_signed() -> None:
    pair, signer = sealing.make_pair(), Signer(os.urandom(32))
    digest = "ab" * 32
    sent = sealing.with_signature(pair.public, signer.public, signer.sign(digest, PREFIX))
    assert bytes_to_public_key(sent) == pair.key.public_key()
    assert sealing.signer_of(sent, digest, PREFIX) == signer.public
    assert sealing.SIGNED.sub(b"", sent) == pair.public
    assert sealing.signer_of(sent, "cd" * 32, PREFIX) == ""
    assert sealing.signer_of(sent, digest, b"other\0") == ""
    assert sealing.signer_of(pair.public, digest, PREFIX) == ""


@pytest.mark.parametrize("modulus", [1 << 8, 1 << 23, 1 << 32])
@pytest.mark.parametrize("seed", [os.urandom(32), b"QUJD" * 11], ids=["any", "text"])
def test_masks_are_those_that_flower_takes_off(modulus: int, seed: bytes) -> None:
    """Also where an array is longer than what is drawn at once."""
    shapes: list[tuple[int, ...]] = [(1,), (CHUNK + 3,), (0,), (2, 3), ()]
    numbers = [np.zeros(shape, np.uint32) for shape in shapes]
    masking.add_masks(numbers, [(seed, True)], modulus)
    for ours, theirs in zip(numbers, pseudo_rand_gen(seed, modulus, shapes), strict=True):
        assert np.array_equal(ours, theirs % modulus)
    masking.add_masks(numbers, [(seed, False)], modulus)
    assert all(not array.any() for array in numbers)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20), st.integers(1, 2000))
def test_quantised_values_come_back_within_a_step(values: list[float], examples: int) -> None:
    weight = masking.weigh(examples, SETUP)
    given = np.array(values)
    ring = masking.quantise(given, weight, SETUP)
    assert ring.max() <= SETUP.target_range
    step = 2 * SETUP.clipping_range / SETUP.target_range
    ratio = weight / SETUP.target_range
    back = (ring.astype(float) * step - SETUP.clipping_range) / ratio
    wanted = np.clip(given * ratio, -SETUP.clipping_range, SETUP.clipping_range) / ratio
    assert np.all(np.abs(back - wanted) <= 0.51 * step / ratio)


def test_a_weight_is_never_over_the_most_and_never_nothing() -> None:
    assert masking.weigh(10**9, SETUP) == SETUP.target_range
    assert masking.weigh(500, SETUP) == SETUP.target_range // 2
    assert masking.weigh(1, Setup(3, 3, 2, 8.0, 16, 1 << 32, 1e9)) == 1


def test_other_dtypes_are_taken_as_numbers() -> None:
    arrays: list[Any] = [np.array([3], np.int64), np.array([True]), np.array([0.5], np.float16)]
    for array in arrays:
        back = masking.quantise(array, SETUP.target_range, SETUP).astype(float) * 16 / SETUP.target_range - 8
        assert abs(float(back[0]) - float(array[0])) < 1e-5
