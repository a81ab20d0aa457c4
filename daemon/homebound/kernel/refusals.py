# SPDX-License-Identifier: Apache-2.0
"""A second seccomp filter, which a role loads itself: a list of calls that lead out, each refused with EPERM.

The first one (kernel/seccomp.py) is a list of what is allowed, compiled by libseccomp and loaded by
bubblewrap. This one shares nothing with it but the kernel: a call that is allowed there by mistake, or a
start that forgets the filter, meets it all the same. Run by kernel/enter.py, so it imports the standard
library only. Source: seccomp(2), syscall(2), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, JUMP_SET, JUMP_ABOVE, JUMP, RETURN = 0x20, 0x15, 0x45, 0x35, 0x05, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENT_AT = 0, 4, 16  # struct seccomp_data; the low half, little endian
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
X32 = 0x40000000  # numbers from here on are x32's, with the same architecture
CLONE_NEW_ANY = 0x7E020080  # the same is in kernel/seccomp.py; a test compares them
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
# getpriority(2) of a kind that the kernel does not know: it says EINVAL, and the canary sees this filter by
# its EPERM.
TRIAL_KIND = 0x7FFF


@dataclass(frozen=True)
class Machine:
    """What an architecture is called in linux/audit.h, and its numbers of calls by name."""

    audit: int
    numbers: Mapping[str, int]


NAMES = """
add_key bpf chroot clone delete_module fanotify_init finit_module getpriority init_module kcmp kexec_file_load
kexec_load keyctl mount mq_open msgget open_by_handle_at perf_event_open pidfd_getfd pivot_root
process_vm_readv process_vm_writev ptrace quotactl reboot request_key semget setns shmget socket socketpair
swapon syslog umount2 unshare userfaultfd
""".split()
# In the order of the names.
X86_64 = """
248 321 161 56 176 300 313 140 175 312 320 246 250 165 240 68 304 298 438 155 310 311 101 179 169 249 64 308
29 41 53 167 103 166 272 323
"""
AARCH64 = """
217 280 51 220 106 262 273 141 105 272 294 104 219 40 180 186 265 241 438 41 270 271 117 60 142 218 190 268
194 198 199 224 116 39 97 282
"""
# These have one number everywhere. asm-generic/unistd.h
EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsmount": 432, "clone3": 435, "process_madvise": 440,
    "mount_setattr": 442,
}  # fmt: skip


def _numbers(text: str) -> Mapping[str, int]:
    return {**EVERYWHERE, **dict(zip(NAMES, map(int, text.split()), strict=True))}


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, _numbers(X86_64)),
    "aarch64": Machine(0xC00000B7, _numbers(AARCH64)),
}
# Refused whatever the arguments are; the calls with a rule of their own are in program().
SPECIAL = frozenset({"socket", "socketpair", "clone", "clone3", "getpriority", "bpf"})


def program(machine: Machine, families: Sequence[int], reads_maps: bool) -> bytes:
    """The filter: ``families`` of sockets that may be made; whether bpf(2) is left to the first filter."""
    refuse, away = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
    lines = [
        _line(LOAD, ARCHITECTURE_AT),
        _line(JUMP_EQUAL, machine.audit, yes=1),
        _line(RETURN, refuse),
        _line(LOAD, NUMBER_AT),
        _line(JUMP_ABOVE, X32, no=1),
        _line(RETURN, refuse),
    ]
    of = machine.numbers
    plain = sorted(number for name, number in of.items() if name not in SPECIAL)
    for number in (*plain, *(() if reads_maps else (of["bpf"],))):
        lines += [_line(JUMP_EQUAL, number, no=1), _line(RETURN, refuse)]
    # Its flags lie in memory: with ENOSYS the C library falls back to clone.
    lines += [_line(JUMP_EQUAL, of["clone3"], no=1), _line(RETURN, away)]
    lines += _argument(of["clone"], [_line(JUMP_SET, CLONE_NEW_ANY, no=1), _line(RETURN, refuse)])
    lines += _argument(of["getpriority"], [_line(JUMP_EQUAL, TRIAL_KIND, no=1), _line(RETURN, refuse)])
    lines += _argument(of["socketpair"], _only([AF_UNIX], refuse))
    lines += _argument(of["socket"], _only(families, refuse))
    return b"".join([*lines, _line(RETURN, ALLOW)])


def _argument(number: int, rules: Sequence[bytes]) -> list[bytes]:
    """Rules on the first argument of one call; none of them met, it is allowed."""
    body = [_line(LOAD, ARGUMENT_AT), *rules, _line(RETURN, ALLOW)]
    return [_line(JUMP_EQUAL, number, no=len(body)), *body]


def _only(values: Sequence[int], refuse: int) -> list[bytes]:
    """Allow these values of what was loaded and refuse all others."""
    allowed = [line for value in values for line in (_line(JUMP_EQUAL, value, no=1), _line(RETURN, ALLOW))]
    return [*allowed, _line(RETURN, refuse)]


def _line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """struct sock_filter: ``yes`` and ``no`` are how many lines to pass over."""
    return struct.pack("=HBBI", code, yes, no, value)


def load(kind: str) -> bool:
    """Load the filter for a kind of role (seccomp.Profile); False on a machine whose numbers are not known.

    Raises OSError when the kernel refuses: a wall half built must not pass in silence.
    """
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    text = program(machine, (AF_INET, AF_INET6) if kind == "gateway" else (), reads_maps=kind == "watcher")
    code = ctypes.create_string_buffer(text, len(text))

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    made = _Program(len(text) // 8, ctypes.addressof(code))
    for words in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(made))):
        if libc.prctl(*words, 0, 0):
            number = ctypes.get_errno()
            raise OSError(number, f"the second filter: {os.strerror(number)}")
    return True
