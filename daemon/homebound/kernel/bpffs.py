# SPDX-License-Identifier: Apache-2.0
"""The BPF file system, where pins live: mounted if nobody did, and unmounted by the last of us.

Several devices of one host may come and go at the same moment, so whoever uses it holds a shared lock, and
only who can have it alone takes the mount away. May import: errors. Source: flock(2), mount(8).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import PermissionMissing

FOLDER = Path("/sys/fs/bpf")
LOCK = Path("/run/homebound-bpf.lock")
# What the lock file holds when the mount is ours to take away.
OURS = b"mounted by homebound\n"


@dataclass(frozen=True)
class Hold:
    """A use of the file system. Ends with release()."""

    fd: int
    folder: Path
    lock: Path

    def release(self) -> None:
        """Let go; the last one takes the mount away if we made it and nothing is pinned there."""
        with suppress(BlockingIOError):
            # From shared to alone, or not at all: somebody else still uses it.
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(self.fd, len(OURS), 0) == OURS and not any(self.folder.iterdir()):
                subprocess.run(["umount", str(self.folder)], check=False)
            self.lock.unlink(missing_ok=True)
        os.close(self.fd)


def hold(folder: Path = FOLDER, lock: Path = LOCK) -> Hold:
    """Use the file system, mounting it if need be. Raises PermissionMissing."""
    fd = _shared(lock)
    try:
        if not os.path.ismount(folder):
            _mount(folder)
            os.pwrite(fd, OURS, 0)
    except BaseException:
        os.close(fd)
        raise
    return Hold(fd, folder, lock)


def _shared(lock: Path) -> int:
    """The lock file, locked shared. One that was removed while we waited is made anew."""
    while True:
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as error:
            raise PermissionMissing(f"cannot write {lock}", "run as root") from error
        fcntl.flock(fd, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == lock.stat().st_ino:
                return fd
        os.close(fd)


def _mount(folder: Path) -> None:
    words = ["mount", "-t", "bpf", "bpf", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not os.path.ismount(folder):
        raise PermissionMissing(
            f"the BPF file system cannot be mounted at {folder}: {done.stderr.strip()}",
            "run as root on the host, or in a container that may mount it",
        )
