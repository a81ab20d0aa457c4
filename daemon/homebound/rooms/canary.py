# SPDX-License-Identifier: Apache-2.0
"""The trial that the walls hold: run with the trainer's walls, it tries each and says what happened.

Two programs: ``sealed`` runs inside the sandbox and tries what seccomp, the namespaces and Landlock must
refuse; ``open`` runs in the canary's cgroup without a sandbox and tries what the BPF programs alone must
refuse, those on security hooks only where they are. Neither reaches anybody: what is connected or sent to is
a name that nobody has. Starts often: the standard library alone. May import: nothing of ours.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

SYS_IO_URING_SETUP = 425  # the same number on every architecture that has it
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
# kernel/refusals.py refuses this kind.
SYS_GETPRIORITY, NO_SUCH_KIND = {"x86_64": 140, "aarch64": 141}, 0x7FFF
SYS_BPF = {"x86_64": 321, "aarch64": 280}
NO_BPF_COMMAND = 9999  # EINVAL for whoever may ask
KEYCTL_GET_KEYRING_ID, SESSION_KEYRING = 0, -3
PR_SET_DUMPABLE = 4
CLONE_NEWUSER = 0x10000000
AF_VSOCK = 40
NETLINK_GENERIC = 16
NOBODY = "\0homebound-canary-nobody"
LANDLOCK_TRIAL = "/run/landlock-trial/canary"

# Trial -> the wall that must refuse it, and the errors by which it may.
WALLS: Mapping[str, tuple[str, frozenset[int]]] = {
    "tcp": ("seccomp", frozenset({errno.EPERM})),
    "udp": ("seccomp", frozenset({errno.EPERM})),
    "unix": ("seccomp", frozenset({errno.EPERM})),
    "packet": ("seccomp", frozenset({errno.EPERM})),
    "vsock": ("seccomp", frozenset({errno.EPERM})),
    "netlink": ("seccomp", frozenset({errno.EPERM})),
    "keyring": ("seccomp", frozenset({errno.EPERM, errno.ENOSYS})),
    "dumpable": ("seccomp", frozenset({errno.EPERM})),
    "core_limit": ("seccomp", frozenset({errno.EPERM})),
    "io_uring": ("seccomp", frozenset({errno.EPERM})),
    "unshare": ("seccomp", frozenset({errno.EPERM})),
    "second_filter": ("seccomp", frozenset({errno.EPERM})),
    "write_root": ("namespaces", frozenset({errno.EROFS})),
    "see_processes": ("namespaces", frozenset({errno.EPERM})),
    "see_links": ("namespaces", frozenset({errno.EPERM})),
    "write_beside": ("landlock", frozenset({errno.EACCES})),
    "bpf_tcp4": ("cgroup-bpf", frozenset({errno.EPERM})),
    "bpf_tcp6": ("cgroup-bpf", frozenset({errno.EPERM, errno.EAFNOSUPPORT})),
    "bpf_udp4": ("cgroup-bpf", frozenset({errno.EPERM})),
}
# Trials of the programs on security hooks, each named as its program: the same, where that is attached.
LSM_WALL = "bpf-lsm"
LSM_ERRORS: Mapping[str, frozenset[int]] = {
    "lsm_socket": frozenset({errno.EPERM}),
    "lsm_connect": frozenset({errno.EPERM}),
    "lsm_send": frozenset({errno.EPERM}),
    "lsm_open": frozenset({errno.EPERM}),
    "lsm_receive": frozenset({errno.EPERM}),
    "lsm_trace": frozenset({errno.EPERM, errno.EACCES}),
    "lsm_bpf": frozenset({errno.EPERM}),
    "lsm_userns": frozenset({errno.EPERM, errno.ENOSPC}),  # the latter: user.max_user_namespaces is 0
    "lsm_key": frozenset({errno.EPERM, errno.EACCES}),
}


@dataclass(frozen=True)
class Trial:
    """One attempt and how it ended: ``error`` 0 means that it got through."""

    name: str
    wall: str
    error: int
    held: bool


def judge(results: Mapping[str, int], hooks: Collection[str] = ()) -> tuple[Trial, ...]:
    """What each result means. A trial that is missing did not hold: it was not tried.

    ``hooks``: the trials of LSM_ERRORS that were to be made.
    """
    asked = {**WALLS, **{name: (LSM_WALL, LSM_ERRORS[name]) for name in LSM_ERRORS if name in hooks}}
    return tuple(
        Trial(name, wall, results.get(name, -1), results.get(name, -1) in errors)
        for name, (wall, errors) in asked.items()
    )


def _socket(family: int, kind: int) -> Callable[[], None]:
    return lambda: socket.socket(family, kind).close()


def _io_uring() -> None:
    _checked(ctypes.CDLL(None, use_errno=True).syscall(SYS_IO_URING_SETUP, 1, None))


def _unshare() -> None:
    _checked(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER))


def _keyring() -> None:
    # An architecture whose number is not known here is passed over: the leak test knows the same two.
    number = SYS_KEYCTL.get(os.uname().machine, -1)
    _checked(ctypes.CDLL(None, use_errno=True).syscall(number, KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0))


def _second_filter() -> None:
    # The first filter allows it, the kernel answers EINVAL. Where its numbers are not known there is none.
    number = SYS_GETPRIORITY.get(os.uname().machine)
    if number is None:
        raise PermissionError(errno.EPERM, "no second filter on this architecture")
    if ctypes.CDLL(None, use_errno=True).syscall(number, NO_SUCH_KIND, 0) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _be_dumpable() -> None:
    _checked(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def _no_limit() -> None:
    # 0 stops no dump into a program (core(5)); it must not even be settable.
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except ValueError as error:  # Python's word for EPERM here
        raise PermissionError(errno.EPERM, "not allowed") from error


def _checked(result: int) -> None:
    # With no parameters io_uring_setup answers EFAULT once it is past the filter.
    number = ctypes.get_errno()
    if result >= 0 or number == errno.EFAULT:
        return
    raise OSError(number, os.strerror(number))


def _write(path: str) -> Callable[[], None]:
    def attempt() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    return attempt


def _see_processes() -> None:
    if any(name.isdigit() and int(name) != os.getpid() for name in os.listdir("/proc")):
        return
    raise PermissionError(errno.EPERM, "sees only itself")


def _see_links() -> None:
    with open("/proc/net/dev", encoding="ascii") as file:
        names = {line.split(":")[0].strip() for line in file.readlines()[2:]}
    if names - {"lo"}:
        return
    raise PermissionError(errno.EPERM, "sees no link but its own loopback")


def _connect() -> None:
    # A pair is made where a socket alone would be refused.
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, suppress(ConnectionRefusedError):
        one.connect(NOBODY)


def _send() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, suppress(ConnectionRefusedError):
        one.sendto(b"", NOBODY)


def _receive() -> None:
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [0])
        _, fds, _, _ = socket.recv_fds(other, 1, 1)
    for fd in fds:
        os.close(fd)
    if not fds:
        raise PermissionError(errno.EPERM, "the descriptor was left out")


def _trace() -> None:
    """Open the memory of a child, which waits for the end of a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        os.close(os.open(f"/proc/{child}/mem", os.O_RDONLY))
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def _bpf() -> None:
    number = SYS_BPF.get(os.uname().machine, -1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(number, NO_BPF_COMMAND, None, 0)
    if ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "bpf")


SEALED: Mapping[str, Callable[[], None]] = {
    "tcp": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "udp": _socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": _socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "packet": _socket(socket.AF_PACKET, socket.SOCK_RAW),
    "vsock": _socket(AF_VSOCK, socket.SOCK_STREAM),
    "netlink": _socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "keyring": _keyring,
    "dumpable": _be_dumpable,
    "core_limit": _no_limit,
    "io_uring": _io_uring,
    "unshare": _unshare,
    "second_filter": _second_filter,
    "write_root": _write("/usr/homebound-canary"),
    "see_processes": _see_processes,
    "see_links": _see_links,
    "write_beside": _write(LANDLOCK_TRIAL),
}
OPEN: Mapping[str, Callable[[], None]] = {
    "bpf_tcp4": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "bpf_tcp6": _socket(socket.AF_INET6, socket.SOCK_STREAM),
    "bpf_udp4": _socket(socket.AF_INET, socket.SOCK_DGRAM),
}

# In this order: the last one leaves the canary where it may do more.
LSM: Mapping[str, Callable[[], None]] = {
    "lsm_socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC).close(),
    "lsm_connect": _connect,
    "lsm_send": _send,
    "lsm_open": _write("/proc/self/comm"),
    "lsm_receive": _receive,
    "lsm_trace": _trace,
    "lsm_bpf": _bpf,
    "lsm_key": _keyring,
    "lsm_userns": _unshare,
}


def attempt(trials: Mapping[str, Callable[[], None]]) -> dict[str, int]:
    """Each trial's errno; 0 when nothing refused it."""
    results = {}
    for name, trial in trials.items():
        try:
            trial()
            results[name] = 0
        except OSError as error:
            results[name] = error.errno or -1
    return results


if __name__ == "__main__":
    further = {name: LSM[name] for name in sys.argv[2:]}
    json.dump(attempt({**(SEALED if sys.argv[1] == "sealed" else OPEN), **further}), sys.stdout)
