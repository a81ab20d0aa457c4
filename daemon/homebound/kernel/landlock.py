# SPDX-License-Identifier: Apache-2.0
"""Landlock: a process gives up every path, TCP port, abstract socket and foreign signal not named here.

The belt inside the mount namespace: if a mount is wrong, this still holds. Run by kernel/enter.py as the
last step before a role's own code, so it imports only the standard library.
Source: landlock(7), Documentation/userspace-api/landlock.rst; ABI 4 = kernel 6.7, ABI 6 = 6.12.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass

SYS_CREATE, SYS_ADD, SYS_RESTRICT = 444, 445, 446
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
CREATE_VERSION = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
ACCESS_FS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT, SCOPE_SIGNAL = 1, 2


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


@dataclass(frozen=True)
class Paths:
    """What stays reachable: ``read`` (no execution), ``execute`` (and read), ``write`` (and read).

    ``scratch``: folders to write in, each "PATH BYTES", as long as it is a mount of that size. The host's own
    folder in its place, which everybody may see, is not.
    """

    read: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    connect_ports: tuple[int, ...] = ()
    scratch: tuple[str, ...] = ()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The kernel's Landlock ABI, 0 where it has none or it is not enabled at boot."""
    version: int = _libc().syscall(SYS_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_VERSION))
    return max(version, 0)


def restrict(paths: Paths) -> int:
    """Restrict this process and its later children for good; returns the ABI used, 0 if there is none.

    Raises OSError when the kernel has Landlock but refuses: a wall half built must not pass in silence.
    """
    version = abi()
    if version == 0:
        return 0
    libc = _libc()
    handled = ACCESS_FS_BY_ABI[min(version, max(ACCESS_FS_BY_ABI))]
    attributes = _Ruleset(handled, 0, 0)
    size = 8
    if version >= 4:
        attributes.net, size = BIND_TCP | CONNECT_TCP, 16
    if version >= 6:
        attributes.scoped, size = SCOPE_ABSTRACT | SCOPE_SIGNAL, 24
    ruleset = _checked(
        libc.syscall(SYS_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    read = READ_FILE | READ_DIR
    for names, rights in (
        (paths.read, read),
        (paths.execute, read | EXECUTE),
        (paths.write, handled & ~EXECUTE),
        (own_scratch(paths.scratch), handled & ~EXECUTE),
    ):
        _allow_paths(libc, ruleset, names, rights & handled)
    if version >= 4:
        for port in paths.connect_ports:
            rule = _NetPort(CONNECT_TCP, port)
            _checked(libc.syscall(SYS_ADD, ruleset, RULE_NET_PORT, ctypes.byref(rule), ctypes.c_uint32(0)))
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(SYS_RESTRICT, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)
    return version


def own_scratch(words: Sequence[str]) -> list[str]:
    """Those of the scratch folders that are mounts of the size that they were given. statvfs(3)"""
    found = []
    for word in words:
        path, _, size = word.rpartition(" ")
        with contextlib.suppress(OSError):
            shape = os.statvfs(path)
            blocks = -(-int(size) // shape.f_frsize)  # a file system in memory rounds up to pages
            if os.path.ismount(path) and shape.f_blocks == blocks:
                found.append(path)
    return found


def _allow_paths(libc: ctypes.CDLL, ruleset: int, names: Sequence[str], rights: int) -> None:
    for name in names:
        try:
            fd = os.open(name, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # nothing there to allow
        # EINVAL if a right for folders is asked on a file (landlock_add_rule(2)).
        allowed = rights if os.path.isdir(name) else rights & FILE_RIGHTS
        rule = _PathBeneath(allowed, fd)
        _checked(libc.syscall(SYS_ADD, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)))
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
