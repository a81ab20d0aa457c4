# SPDX-License-Identifier: Apache-2.0
"""What this device is to the federation, kept in the gateway's state folder: its key and its number.

The number lets a gateway that was killed go on with its session, which the federation would hold against
the same key for a minute. It counts only within one boot, so that a copied disk does not take it along.
May import: errors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from homebound.errors import ConfigError, HomeboundError

KEY, SESSION = "node.pem", "session.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The EC private key in a PEM file. Raises ConfigError."""
    hint = "make one with: openssl ecparam -name secp384r1 -genkey -noout -out FILE"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"federation.node_key cannot be read: {error.strerror}", hint) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("federation.node_key is no PEM private key without a password", hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("federation.node_key is not an EC key", hint)
    return key


def own_key(state: Path) -> ec.EllipticCurvePrivateKey:
    """The key that this device made for itself, made now if there is none. Raises HomeboundError."""
    path = state / KEY
    try:
        if path.exists():
            return load_key(path)
        key = ec.generate_private_key(ec.SECP384R1())
        _write(
            path,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    except OSError as error:
        raise HomeboundError(
            f"the key of this device cannot be kept: {error.strerror}", f"check space and owner of {state}"
        ) from error
    return key


class Session:
    """The number of the last session, if it belongs to this boot and this federation."""

    def __init__(self, state: Path, federation: str, boot_id: Path = BOOT_ID) -> None:
        self._path = state / SESSION
        self._federation = federation
        try:
            self._boot = boot_id.read_text().strip()
        except OSError:
            self._boot = ""

    def node(self) -> int:
        """The number, 0 if there is none that counts."""
        try:
            kept = json.loads(self._path.read_text())
            if self._boot and (kept["boot"], kept["federation"]) == (self._boot, self._federation):
                return int(kept["node"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0

    def keep(self, node: int) -> None:
        """Remember a number; 0 forgets it. Losing it costs a minute at the next start, so it may fail."""
        document = {"boot": self._boot, "federation": self._federation, "node": node}
        try:
            _write(self._path, json.dumps(document).encode())
        except OSError:
            return


def _write(path: Path, data: bytes) -> None:
    """Put a file in place whole, readable by its owner alone."""
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
