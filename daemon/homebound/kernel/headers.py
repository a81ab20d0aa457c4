# SPDX-License-Identifier: Apache-2.0
"""A folder that bcc takes for a kernel's headers, on a host that has none.

bcc brings the BPF interface along; of a kernel's tree it wants a handful of names for types and sizes. The
interface headers are those of linux-libc-dev, by symbolic links; the rest is written here, in our own words,
and holds only what programs with interface contexts can need: no struct of the kernel's own.
May import: errors. Source: bcc's kbuild search path (its list of -I), include/uapi of Linux.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from homebound.errors import HomeboundError

SYSTEM = Path("/usr/include")

TYPES = """\
#ifndef HB_TYPES
#define HB_TYPES
#include <uapi/linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
typedef __u64 uint64_t;
typedef __s8 int8_t;
typedef __s16 int16_t;
typedef __s32 int32_t;
typedef __s64 int64_t;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
typedef long ssize_t;
typedef long long loff_t;
typedef int pid_t;
typedef unsigned int uid_t;
typedef unsigned int gid_t;
typedef unsigned int dev_t;
typedef _Bool bool;
enum { false, true };
#define NULL ((void *)0)
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
"""
ROUND_UP = """\
#define roundup_pow_of_two(n) ((n) < 2 ? 1UL : 2UL << (63 - __builtin_clzl((n) - 1)))
"""
# bcc includes its own copy of linux/bpf.h; the host's, which is younger or older, must not come first.
CONFIG = """\
#define __LINUX_BPF_H__
#define CONFIG_BPF_SYSCALL 1
"""
PAGE = f"""\
#define PAGE_SIZE {os.sysconf("SC_PAGE_SIZE")}UL
"""
FILES = {
    "include/linux/types.h": TYPES,
    "include/linux/log2.h": ROUND_UP,
    "include/linux/kconfig.h": CONFIG,
    "include/linux/version.h": "#include <uapi/linux/version.h>\n",
    "include/asm/page.h": PAGE,
    "include/generated/autoconf.h": "",
}


@contextmanager
def tree(system: Path = SYSTEM) -> Iterator[Path]:
    """The folder, as long as the block runs. Raises HomeboundError when the interface headers are missing."""
    machine = next(
        (path for path in (system / _triple() / "asm", system / "asm") if (path / "types.h").exists()), None
    )
    if machine is None or not (system / "linux/types.h").exists():
        raise HomeboundError(f"there is no {system}/linux/types.h", "install the package linux-libc-dev")
    links = {"linux": system / "linux", "asm": machine, "asm-generic": system / "asm-generic"}
    with TemporaryDirectory(prefix="homebound-headers-") as folder:
        root = Path(folder)
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "include/uapi").mkdir()
        for name, target in links.items():
            (root / "include/uapi" / name).symlink_to(target)
        yield root


def _triple() -> str:
    """Debian's name for this machine's libraries, as x86_64-linux-gnu."""
    return str(sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu")
