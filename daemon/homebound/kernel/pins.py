# SPDX-License-Identifier: Apache-2.0
"""The folders of one device's pins: what an earlier run left is set aside, which keeps it attached, and goes
when the new programs are in place.

Needs root. May import: kernel.bpf. Source: bpf(2), kernel/bpf/inode.c (pins may be renamed inside their file
system).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from homebound.kernel import bpf

MAPS, PROGRAMS, LINKS, OLD = "maps", "programs", "links", "old-"
FOLDERS = (MAPS, PROGRAMS, LINKS)


def make(pins: Path) -> None:
    """The empty folders that a loader fills."""
    for folder in FOLDERS:
        (pins / folder).mkdir(mode=0o700)


def set_aside(pins: Path) -> list[str]:
    """Rename all that is pinned, which keeps it attached; a newer version may have pinned more than we know.
    Returns the folders to remove later, newest last."""
    pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    old = [folder.name for folder in pins.iterdir() if folder.name.startswith(OLD)]
    here = [folder.name for folder in pins.iterdir() if not folder.name.startswith(OLD)]
    if here:
        aside = f"{OLD}{1 + max((int(name.removeprefix(OLD)) for name in old), default=0)}"
        (pins / aside).mkdir(mode=0o700)
        for name in here:
            (pins / name).rename(pins / aside / name)
        old.append(aside)
    return old


def bring_back(pins: Path, aside: str) -> None:
    """Undo set_aside() for one of its folders."""
    for folder in (pins / aside).iterdir():
        folder.rename(pins / folder.name)
    (pins / aside).rmdir()


def remove(pins: Path, folders: Iterable[str]) -> None:
    """Detach and unpin. Links first: a program must not run without its maps being told about."""
    found = [path for name in folders for path in (pins / name, *(pins / name).rglob("*")) if path.exists()]
    for path in found:
        if path.parent.name == LINKS:
            fd = bpf.open_pin(path)
            bpf.detach_link(fd)
            os.close(fd)
    for path in sorted(found, key=lambda path: -len(path.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
