# SPDX-License-Identifier: Apache-2.0
"""Which refused system calls count as an attempt, and under which rule: the table for hb_syscall_exit.

Names, not numbers: libseccomp knows the numbers of this architecture, and a name that it does not have here
(open on arm64) is passed over. A call that is on no list here is not watched.
May import: errors, events. Source: the manual page of each call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import TypeVar

from homebound.errors import HomeboundError
from homebound.events import Rule, Shape

LIBRARY = "libseccomp.so.2"
T = TypeVar("T")

# Rule and shape of each list. For SOCKET shapes the program finds the rule by family and type.
LISTS: Mapping[tuple[Rule, Shape], str] = {
    (Rule.SOCKET_OTHER, Shape.SOCKET): "socket socketpair",
    (Rule.IO_URING, Shape.PLAIN): "io_uring_setup io_uring_enter io_uring_register",
    (Rule.FILE_OUTSIDE, Shape.OPEN): "open",
    (Rule.FILE_OUTSIDE, Shape.OPENAT): "openat",
    (Rule.FILE_OUTSIDE, Shape.OPENAT2): "openat2",
    (Rule.FILE_OUTSIDE, Shape.CREATE): "creat",
    (Rule.FILE_OUTSIDE, Shape.PLAIN): """
        mkdir mkdirat mknod mknodat link linkat symlink symlinkat rename renameat renameat2 unlink unlinkat
        rmdir truncate chmod fchmodat chown lchown fchownat setxattr lsetxattr utimensat""",
    (Rule.FOREIGN_FD, Shape.DESCRIPTOR): """
        write writev pwrite64 pwritev pwritev2 sendto sendmsg sendmmsg sendfile splice tee vmsplice
        copy_file_range""",
    (Rule.NAMESPACE, Shape.PLAIN): """
        unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick
        mount_setattr""",
    (Rule.NAMESPACE, Shape.CLONE): "clone",
    (Rule.NAMESPACE, Shape.CLONE3): "clone3",
    (Rule.TRACE, Shape.PLAIN): """
        ptrace process_vm_readv process_vm_writev pidfd_getfd perf_event_open kcmp process_madvise""",
    (Rule.KERNEL, Shape.PLAIN): """
        bpf init_module finit_module delete_module kexec_load kexec_file_load keyctl add_key request_key
        reboot iopl ioperm swapon swapoff acct userfaultfd syslog quotactl quotactl_fd settimeofday
        clock_settime adjtimex clock_adjtime sethostname setdomainname open_by_handle_at
        fanotify_init vhangup shmget shmat msgget msgsnd semget semop mq_open mq_timedsend""",
}  # fmt: skip
# socketcall, and socket to shutdown, as int 0x80 numbers them. Here the first is getuid, which never fails,
# and the others are no calls at all. arch/x86/entry/syscalls/syscall_32.tbl
BY_INTERRUPT: Mapping[str, tuple[int, ...]] = {"x86_64": (102, *range(359, 374))}


def names() -> Mapping[str, tuple[Rule, Shape]]:
    """Rule and shape by name of the call."""
    return {name: kind for kind, text in LISTS.items() for name in text.split()}


def numbers() -> Mapping[int, tuple[Rule, Shape]]:
    """Rule and shape by number on this architecture. Raises HomeboundError without libseccomp."""
    other = dict.fromkeys(BY_INTERRUPT.get(os.uname().machine, ()), (Rule.SOCKET_OTHER, Shape.PLAIN))
    return other | resolve(names())


def resolve(kinds: Mapping[str, T]) -> dict[int, T]:
    """By number what was by name. Raises HomeboundError without libseccomp."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HomeboundError(f"{LIBRARY} cannot be loaded", "apt install libseccomp2") from error
    resolved = {library.seccomp_syscall_resolve_name(name.encode()): kind for name, kind in kinds.items()}
    # Negative: a call of other architectures, or one newer than the library.
    return {number: kind for number, kind in resolved.items() if number >= 0}


def rule_value(rule: Rule, shape: Shape) -> int:
    """The 32-bit value of the map syscall_rule: rule in the low half, shape in the high half."""
    return rule | shape << 16
