# SPDX-License-Identifier: Apache-2.0
"""A root file system in which the trainer runs in place of this host's own: a mounted container image.

It is a folder that somebody else made and mounted. Nothing of it runs with a right: the host's setpriv drops
those before the folder's Python starts, with the host's loader and libraries, which are mounted beside it.
No link in the folder leads out of it. May import: errors, kernel.sandbox.
Source: ld.so(8), chroot(2), path_resolution(7).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath

from homebound.errors import ConfigError
from homebound.kernel.sandbox import SYSTEM, Bind

PYTHON = "/usr/bin/python3"
SETPRIV = "/usr/bin/setpriv"
# Where the view has the host's setpriv and what it loads.
BESIDE = "/run/setpriv"
# As many as the kernel follows. path_resolution(7)
MAX_LINKS = 40
LIBRARY = re.compile(r"(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x")


@dataclass(frozen=True)
class Rootfs:
    """What of the folder the view needs. ``program`` is the Python's path in it after all links."""

    python: str
    program: str
    system: tuple[Bind, ...]
    binds: tuple[Bind, ...]
    setpriv: tuple[str, ...]


def resolve(folder: str, path: str) -> str:
    """Where ``path`` ends if ``folder`` is the root, as chroot(2) has it. Raises ConfigError on a loop."""
    left, found, links = list(reversed(path.split("/"))), list[str](), 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            found = found[:-1]
            continue
        try:
            target = os.readlink("/".join([folder, *found, part]))
        except OSError:
            found.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise ConfigError(f"{path} in {folder} is a loop of links", "take another image")
        found = [] if target.startswith("/") else found
        left += reversed(target.split("/"))
    return "/" + "/".join(found)


def look(folder: str, python: str = "") -> Rootfs:
    """Find what the view needs. Raises ConfigError when the folder cannot be a trainer's root."""
    python = python or PYTHON
    program = resolve(folder, python)
    if not os.access(folder + program, os.X_OK):
        raise ConfigError(
            f"{folder} has no {python}", "mount an image with Python 3.11 or newer, or name its own"
        )
    if resolve(folder, "/lib") != "/usr/lib":
        raise ConfigError(f"/lib of {folder} is no link to usr/lib", "take an image with a merged /usr")
    system = [
        Bind(path if path.startswith("/sys/") else folder + resolve(folder, path), path) for path in SYSTEM
    ]
    prefixes = {str(PurePosixPath(place).parents[1]) for place in (python, program)}
    outside = sorted(prefix for prefix in prefixes if prefix != "/usr" and not prefix.startswith("/usr/"))
    if "/" in outside:
        raise ConfigError(f"{python} lies in the root itself", "take one that lies in bin below a folder")
    binds = [Bind(folder + resolve(folder, prefix), prefix) for prefix in outside]
    loader, libraries = _host_setpriv()
    return Rootfs(python, program, tuple(system), (*binds, *libraries), loader)


def _host_setpriv() -> tuple[tuple[str, ...], tuple[Bind, ...]]:
    """The words that start the host's setpriv by the host's loader in a view, and what to mount for them.

    The loader takes no library from elsewhere: all it needs lie in the path it is told, and it is told to
    leave the folder's cache alone.
    """
    done = subprocess.run(
        ["ldd", SETPRIV], env={"PATH": os.defpath}, capture_output=True, text=True, check=False
    )
    found = {match["name"] or "loader": match["path"] for match in LIBRARY.finditer(done.stdout)}
    if "loader" not in found:
        raise ConfigError(
            f"what {SETPRIV} loads cannot be told", "install the packages util-linux and libc-bin"
        )
    found["setpriv"] = SETPRIV
    binds = tuple(Bind(os.path.realpath(path), f"{BESIDE}/{name}") for name, path in sorted(found.items()))
    loader = (f"{BESIDE}/loader", "--inhibit-cache", "--library-path", BESIDE, f"{BESIDE}/setpriv")
    return loader, binds
