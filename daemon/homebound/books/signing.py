# SPDX-License-Identifier: Apache-2.0
"""The ledger's key: Ed25519, made once, kept in a file that only its owner reads, or handed over.

Its own file because it loads the cryptography library (6 MB): whoever only reads a ledger does without.
A key that lies beside the ledger binds a copy of the ledger that went elsewhere; whoever can read the key can
sign anew. A systemd credential keeps it out of the guard's folder. May import: books.chain, errors.
Source: RFC 8032, systemd.exec(5) on credentials.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from homebound.books.chain import SIGNED_PREFIX
from homebound.errors import ConfigError, HomeboundError

# A private key as text: 32 random bytes, as `openssl rand -hex 32` prints them.
FORM = re.compile(rb"[0-9a-f]{64}\s*")
SIGNATURE = re.compile(r"[0-9a-f]{128}")


class Signer:
    """Signs hashes. ``public``: the public key as 64 hexadecimal digits."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw().hex()

    def sign(self, digest: str, prefix: bytes = SIGNED_PREFIX) -> str:
        """The signature over a hash, as 128 hexadecimal digits. ``prefix``: what the hash is one of."""
        return self._key.sign(prefix + digest.encode("ascii")).hex()


class Verifier:
    """Checks signatures with a public key of 64 hexadecimal digits; one that is none has signed nothing."""

    def __init__(self, public: str) -> None:
        try:
            self._key: Ed25519PublicKey | None = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        except ValueError:
            self._key = None

    def is_signed(self, digest: str, signature: str, prefix: bytes = SIGNED_PREFIX) -> bool:
        """Whether this key made the signature over the hash. False for what is no signature at all."""
        try:
            # One spelling only: fromhex() passes over spaces and takes capitals.
            if self._key is None or SIGNATURE.fullmatch(signature) is None:
                return False
            self._key.verify(bytes.fromhex(signature), prefix + digest.encode("ascii"))
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True


def read_key(text: bytes, source: str) -> Signer:
    """A signer from the text of a key. ConfigError when it is none; the text is not repeated."""
    if FORM.fullmatch(text) is None:
        raise ConfigError(f"{source} holds no key of a ledger", "64 hexadecimal digits: openssl rand -hex 32")
    return Signer(bytes.fromhex(text.decode("ascii").strip()))


def load_key(path: Path) -> Signer | None:
    """The key in a file, None when there is no file. ConfigError when others may read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeboundError(f"cannot open {path}: {error.strerror}", "see that it is ours") from error
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_mode & 0o077:
            raise ConfigError(f"others may read {path}", f"chmod 600 {path}, and consider the key known")
        return read_key(file.read(256), str(path))


def make_key(path: Path) -> Signer:
    """Make a key and keep it in a new file, on the disk when this returns. HomeboundError if it cannot be."""
    seed = os.urandom(32)
    partial = path.with_name(path.name + ".new")
    try:
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(seed.hex().encode("ascii") + b"\n")
            file.flush()
            os.fsync(fd)
        # Not os.replace(): a key that is there is never lost to a new one.
        os.link(partial, path)
        partial.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise HomeboundError(
            f"cannot make {path}: {error.strerror}", "see that its folder has room"
        ) from error
    return Signer(seed)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
