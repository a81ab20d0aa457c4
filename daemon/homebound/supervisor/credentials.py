# SPDX-License-Identifier: Apache-2.0
"""Secrets that systemd hands over: files in a folder of the service's own, which no one else can read.

A credential of the service is used where the settings name no file, so that no secret lies in the
configuration. For the supervisor alone. Imports nothing of ours.
Source: systemd.exec(5) (LoadCredential=), https://systemd.io/CREDENTIALS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def find(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Path of the credential homebound.NAME ("node_key"); "" when systemd gave none."""
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, f"homebound.{name}")
    return str(path) if folder and path.is_file() else ""
