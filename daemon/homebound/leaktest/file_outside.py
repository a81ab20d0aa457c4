# SPDX-License-Identifier: Apache-2.0
"""A file in a folder of the host that anybody may write: a job with a network could pick it up later.

The folder and a file in it exist on the host with all rights given, so that only the sandbox stands in
the way. ``attempt`` runs inside the sandbox, ``receiver`` outside. Imports the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.receiver import Folder
from homebound.leaktest.target import Attempt, Target, try_each

NUMBER = 27
NAME = "file_outside"
RULES = ("file_outside",)
WALLS = ("namespaces", "landlock")
DELIVERS = True


def attempt(target: Target) -> Attempt:
    """Write the token to the file that exists and to a new one beside it."""
    folder = target.place(NAME)["folder"]

    def write(name: str, flags: int) -> None:
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | flags, 0o666)
        try:
            os.write(file, target.token.encode())
        finally:
            os.close(file)

    return try_each(
        {"existing": lambda: write("existing", os.O_APPEND), "new": lambda: write("new", os.O_TRUNC)}
    )


@contextmanager
def receiver(folder: Path) -> Iterator[Folder]:
    """Make a folder that is open to everybody, and watch its files."""
    outside = folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    existing = outside / "existing"
    existing.touch()
    existing.chmod(0o666)
    try:
        yield Folder(place={"folder": str(outside)}, path=outside)
    finally:
        for file in outside.iterdir():
            file.unlink()
        outside.rmdir()
