# SPDX-License-Identifier: Apache-2.0
"""Checks that a site adds: programs in /etc/homebound/check/required.d and wanted.d, run by the doctor.

Exit status 0 is passed; the first line of output is what was found. Only programs that root alone can
change are run, as they may be run as root. Imports nothing of ours.
"""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class SiteResult:
    """What one program of the site gave."""

    name: str
    passed: bool
    line: str


def run(folder: Path, timeout: float = TIMEOUT_SECONDS) -> list[SiteResult]:
    """Run the programs of a folder by name; a missing folder has none. Hidden files are passed over."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    return [_run(path, timeout) for path in paths if path.is_file() and os.access(path, os.X_OK)]


def _run(path: Path, timeout: float) -> SiteResult:
    if not all(_is_safe(place) for place in (path.resolve(), path.parent.resolve())):
        return SiteResult(path.name, False, "not run: others than root can change it")
    try:
        done = subprocess.run(
            [path], capture_output=True, text=True, errors="replace", check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return SiteResult(path.name, False, f"did not end in {timeout:.0f} s")
    except OSError as error:
        return SiteResult(path.name, False, f"cannot be run: {error.strerror}")
    lines = (done.stdout or done.stderr).splitlines() or [f"exit status {done.returncode}"]
    return SiteResult(path.name, done.returncode == 0, lines[0])


def _is_safe(path: Path) -> bool:
    state = path.stat()
    return state.st_uid in (0, os.geteuid()) and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
