# SPDX-License-Identifier: Apache-2.0
"""Every system call has a class: the table for hb_calls, and what it counted as names.

A call that is on no list here is of class OTHER: most of those only ask (getpid, clock_gettime, uname).
May import: errors, events, kernel.maps, kernel.syscalls. Source: the manual page of each call.
"""

from __future__ import annotations

from collections.abc import Mapping

from homebound.events import CallClass, Rule, Shape
from homebound.kernel import maps, syscalls

LISTS: Mapping[CallClass, str] = {
    CallClass.FILE: """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat openat2
        creat close close_range stat fstat lstat newfstatat statx access faccessat faccessat2 lseek
        getdents getdents64 dup dup2 dup3 fcntl flock fsync fdatasync truncate ftruncate fallocate
        rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat
        readlink readlinkat chmod fchmod fchmodat chown fchown lchown fchownat utimensat mknod
        mknodat ioctl getcwd chdir fchdir umask statfs fstatfs getxattr lgetxattr fgetxattr setxattr
        lsetxattr fsetxattr listxattr llistxattr flistxattr sendfile splice tee vmsplice
        copy_file_range sync_file_range readahead fadvise64 inotify_init1 inotify_add_watch sync
        syncfs""",
    CallClass.NETWORK: """
        socket socketpair connect accept accept4 bind listen sendto sendmsg sendmmsg recvfrom
        recvmsg recvmmsg shutdown getsockname getpeername getsockopt setsockopt""",
    CallClass.PROCESS: """
        fork vfork clone clone3 execve execveat exit exit_group wait4 waitid kill tkill tgkill
        rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo
        sigaltstack pidfd_open pidfd_send_signal sched_yield sched_setaffinity sched_getaffinity
        setpgid setsid getrlimit setrlimit prlimit64 prctl arch_prctl set_tid_address
        set_robust_list rseq nanosleep clock_nanosleep""",
    CallClass.MEMORY: """
        mmap munmap mprotect mremap madvise brk mlock mlock2 munlock mlockall munlockall msync
        mincore mbind set_mempolicy get_mempolicy pkey_alloc pkey_free pkey_mprotect memfd_create""",
    CallClass.IPC: """
        pipe pipe2 futex futex_wait futex_wake futex_waitv eventfd eventfd2 signalfd4 timerfd_create
        timerfd_settime epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll
        select pselect6 shmget shmat shmdt shmctl semget semop semctl semtimedop msgget msgsnd
        msgrcv msgctl mq_open mq_timedsend mq_timedreceive""",
    CallClass.PRIVILEGED: """
        setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset
        seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self""",
}  # fmt: skip
# Rules whose calls no role has a use for: any of them is dangerous, and privileged if it is on no list above.
DANGEROUS = frozenset({Rule.IO_URING, Rule.NAMESPACE, Rule.TRACE, Rule.KERNEL})
ANY_USE = frozenset({Shape.PLAIN, Shape.CLONE, Shape.CLONE3})


def classes() -> Mapping[int, CallClass]:
    """Class by number on this architecture. Raises HomeboundError without libseccomp."""
    dangerous = {
        number: CallClass.PRIVILEGED for number, (rule, _) in syscalls.numbers().items() if rule in DANGEROUS
    }
    listed = {name: kind for kind, text in LISTS.items() for name in text.split()}
    return dangerous | syscalls.resolve(listed)


def read_dangerous(fd: int) -> Mapping[str, int]:
    """Calls that no role has a use for, by name, refused or not; zeros are left out."""
    names = [
        name for name, (rule, shape) in syscalls.names().items() if rule in DANGEROUS and shape in ANY_USE
    ]
    numbers = syscalls.resolve({name: name for name in names})
    counts = maps.read_cells(fd, numbers)
    return {name: counts[number] for number, name in sorted(numbers.items()) if counts[number]}
