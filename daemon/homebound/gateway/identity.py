# SPDX-License-Identifier: Apache-2.0
"""Prints how an app is named: python -m homebound.gateway.identity PATH

{"fab_sha256": ..., "tree_sha256": ...}: the first is what a SuperLink calls the app when it was started from
the same files (Flower's own bundle builder), the second is apptree's digest of what lies in the folder.
Sees the app's files, runs none of them. May import: errors, apptree, flwr.cli.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import click
from flwr.cli.build import build_fab_from_disk

from homebound.apptree import tree_sha256
from homebound.errors import ConfigError, HomeboundError, UsageError


def fab_sha256(folder: Path) -> str:
    """The name that ``flwr build`` would give the app in ``folder``. Raises ConfigError.

    The bundle is a zip file, so another zlib than the federation's may give another name for the same files;
    then take the one that the federation shows.
    """
    try:
        return hashlib.sha256(build_fab_from_disk(folder)).hexdigest()
    except (ValueError, OSError, click.ClickException) as error:
        words = " ".join(str(getattr(error, "message", error)).split())
        raise ConfigError(
            f"the app in {folder} cannot be bundled: {words}", "check its pyproject.toml with: flwr build"
        ) from error


def main(words: Sequence[str]) -> int:
    """Print the identity of the app in the one folder named; exit status."""
    try:
        if len(words) != 1:
            raise UsageError("one argument is needed", "python -m homebound.gateway.identity PATH")
        folder = Path(words[0])
        tree = tree_sha256(folder)
        sys.stdout.write(json.dumps({"fab_sha256": fab_sha256(folder), "tree_sha256": tree}) + "\n")
    except HomeboundError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
