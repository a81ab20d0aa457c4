# SPDX-License-Identifier: Apache-2.0
"""A command as another user, who finds the clone also where it lies behind a folder that is root's alone.

A clone below /root is such a one. The way to it is opened in a mount namespace of the command, and nothing
else of that folder is there. Source: unshare(1), setpriv(1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT
from homebound.leaktest.without import closed_above

# $1: the folder that is root's alone, $2: the clone. "." stays the clone, under the cover, too, as long as
# nobody asks for its name, which mount(8) does unless told not to.
OPEN = """
cd "$2" && mount -t tmpfs -o mode=755 tmpfs "$1" && mkdir -p "$2" &&
mount --no-canonicalize --bind . "$2" && cd "$2" && shift 2 && exec "$@"
"""


def as_user(number: int, words: Sequence[str], clone: Path = ROOT) -> list[str]:
    """The command line that runs ``words`` without any right, as the user and group of this number."""
    dropped = ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", "--", *words]
    if (closed := closed_above(clone)) is None:
        return dropped
    return ["unshare", "--mount", "--", "/bin/sh", "-c", OPEN, "sh", str(closed), str(clone), *dropped]
