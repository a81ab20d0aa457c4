# SPDX-License-Identifier: Apache-2.0
"""Key pairs, agreed keys and sealed shares, in the form of flwr 1.42 (P-384, HKDF of SHA-256, Fernet).

Two pairs a device and round: one for the masks, one to seal shares for a neighbour. A public key may carry a
line with the signature of the device's own lasting key behind its PEM: Flower's server and stock clients pass
it over. So a server that puts its own key in the place of a neighbour's is found out by whoever knows the
neighbours. May import: books.signing. Source: RFC 5869, RFC 7468, the specification of Fernet.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from homebound.books.signing import Verifier

CURVE = ec.SECP384R1()
SIGNED = re.compile(rb"\nhomebound-signature ([0-9a-f]{64}) ([0-9a-f]{128})\n\Z")
# Node numbers of giver and taker, and the length of the first of two shares.
NODE_BYTES, LENGTH_BYTES = 8, 4


class Broken(Exception):
    """No key, or no sealed shares for us."""


@dataclass(frozen=True)
class Pair:
    """A key pair of this round. ``public`` and ``private`` are PEM."""

    key: ec.EllipticCurvePrivateKey
    public: bytes
    private: bytes


@dataclass(frozen=True)
class Shares:
    """What one device gives another: of its private mask, and of its key for masks."""

    mask: bytes
    key: bytes


def make_pair() -> Pair:
    """A fresh pair."""
    key = ec.generate_private_key(CURVE)
    return Pair(
        key,
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def public_key(text: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a neighbour's PEM. Raises Broken."""
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Broken from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE.name:
        raise Broken
    return key


def same_point(key: ec.EllipticCurvePublicKey) -> bytes:
    """One spelling for each key, by which equal ones are found."""
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def with_signature(public: bytes, signer: str, signature: str) -> bytes:
    """A public key as it is sent: PEM, and a line that says who made it."""
    return public + f"\nhomebound-signature {signer} {signature}\n".encode("ascii")


def signer_of(text: bytes, digest: str, prefix: bytes) -> str:
    """Whose signature over ``digest`` a public key carries; "" when it carries none that is right."""
    found = SIGNED.search(text)
    if found is None:
        return ""
    signer, signature = (part.decode("ascii") for part in found.groups())
    return signer if Verifier(signer).is_signed(digest, signature, prefix) else ""


def agree(ours: ec.EllipticCurvePrivateKey, theirs: ec.EllipticCurvePublicKey) -> bytes:
    """The key that both have, as text of Base64 (the form in which Flower seeds masks with it)."""
    derived = HKDF(hashes.SHA256(), 32, None, None).derive(ours.exchange(ec.ECDH(), theirs))
    return base64.urlsafe_b64encode(derived)


def seal(agreed: bytes, giver: int, taker: int, shares: Shares) -> bytes:
    """Shares that only the taker can read."""
    ends = giver.to_bytes(NODE_BYTES, "little") + taker.to_bytes(NODE_BYTES, "little")
    length = len(shares.mask).to_bytes(LENGTH_BYTES, "little")
    return Fernet(agreed).encrypt(ends + length + shares.mask + shares.key)


def unseal(agreed: bytes, giver: int, taker: int, sealed: bytes) -> Shares:
    """The shares that ``giver`` sealed for ``taker``. Raises Broken for anything else."""
    try:
        content = Fernet(agreed).decrypt(sealed)
    except (InvalidToken, binascii.Error, ValueError, TypeError) as error:
        raise Broken from error
    start = 2 * NODE_BYTES + LENGTH_BYTES
    ends = (content[:NODE_BYTES], content[NODE_BYTES : 2 * NODE_BYTES])
    length = int.from_bytes(content[2 * NODE_BYTES : start], "little")
    if ends != (giver.to_bytes(NODE_BYTES, "little"), taker.to_bytes(NODE_BYTES, "little")):
        raise Broken
    if not 0 < length < len(content) - start:
        raise Broken
    return Shares(content[start : start + length], content[start + length :])
