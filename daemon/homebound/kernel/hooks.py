# SPDX-License-Identifier: Apache-2.0
"""Where a program belongs, by the name of its section as libbpf spells it, and how it gets there.

Needs root. May import: kernel.bpfmake, kernel.btf, kernel.tracefs. Source: bpf(2), perf_event_open(2),
Documentation/trace/kprobetrace.rst, Documentation/bpf/libbpf/program_types.rst (the names).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from homebound.kernel import bpfmake, btf, tracefs
from homebound.kernel.bpfmake import ProgramKind

KPROBE, SCHED_CLS, TRACEPOINT, RAW_TRACEPOINT, TRACING, LSM = 2, 3, 5, 17, 26, 29
ATTACH_RAW_TP, ATTACH_LSM, ATTACH_PERF = 23, 27, 41
# Section -> program type and attach type (enum bpf_prog_type, enum bpf_attach_type).
ON_CGROUP: Mapping[str, ProgramKind] = {
    "cgroup_skb/ingress": ProgramKind(8, 0),
    "cgroup_skb/egress": ProgramKind(8, 1),
    "cgroup/sock_create": ProgramKind(9, 2),
    "cgroup/connect4": ProgramKind(18, 10),
    "cgroup/connect6": ProgramKind(18, 11),
    "cgroup/sendmsg4": ProgramKind(18, 14),
    "cgroup/sendmsg6": ProgramKind(18, 15),
    "sockops": ProgramKind(13, 3),
}
# What hangs on a named place in the kernel. "tc" is attached by somebody else, by netlink.
ON_KERNEL = ("raw_tp", "tp_btf", "tracepoint", "kprobe", "kretprobe", "lsm")
KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
PERF_TYPE_TRACEPOINT, PERF_FLAG_FD_CLOEXEC = 2, 8
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
EVERY_TASK, FIRST_CPU = -1, 0
# What homebound.service does not allow by itself.
FILTERED = "under systemd add SystemCallFilter=perf_event_open"

_LIBC = ctypes.CDLL(None, use_errno=True)


class _PerfEvent(ctypes.Structure):
    """struct perf_event_attr, as long as its first version and the two words after that kprobes need."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Hook:
    """A section, taken apart: its kind, and the name of what it hangs on ("" for a cgroup)."""

    section: str
    family: str
    target: str = ""


def read(section: str) -> Hook:
    """Raises LookupError for a section that is not known here."""
    if section in ON_CGROUP:
        return Hook(section, "cgroup")
    family, _, target = section.partition("/")
    family = {"tp": "tracepoint", "raw_tracepoint": "raw_tp", "classifier": "tc"}.get(family, family)
    if family == "tc" or (family in ON_KERNEL and target):
        return Hook(section, family, target)
    raise LookupError(f"the section {section} is not known to this loader")


def kind(hook: Hook) -> ProgramKind:
    """What to tell the verifier. Raises LookupError where the kernel does not describe the hook."""
    if hook.family == "cgroup":
        return ON_CGROUP[hook.section]
    if hook.family == "tp_btf":
        return ProgramKind(TRACING, ATTACH_RAW_TP, btf.find(f"btf_trace_{hook.target}", btf.TYPEDEF))
    if hook.family == "lsm":
        return ProgramKind(LSM, ATTACH_LSM, btf.find(f"bpf_lsm_{hook.target}", btf.FUNCTION))
    types = {
        "raw_tp": RAW_TRACEPOINT, "tracepoint": TRACEPOINT, "kprobe": KPROBE, "kretprobe": KPROBE,
        "tc": SCHED_CLS,
    }  # fmt: skip
    return ProgramKind(types[hook.family])


def attach(hook: Hook, program: int, cgroup: int) -> int | None:
    """A descriptor of the link; None for what is attached by netlink. Raises OSError."""
    if hook.family == "tc":
        return None
    if hook.family == "cgroup":
        return bpfmake.link_create(program, cgroup, ON_CGROUP[hook.section].attach_type)
    if hook.family == "raw_tp":
        return bpfmake.raw_tracepoint_open(program, hook.target)
    if hook.family in ("tp_btf", "lsm"):
        return bpfmake.raw_tracepoint_open(program, "")
    event = _tracepoint(hook.target) if hook.family == "tracepoint" else _kprobe(hook)
    try:
        return bpfmake.link_create(program, event, ATTACH_PERF)
    finally:
        os.close(event)  # the link holds it


def _tracepoint(target: str) -> int:
    try:
        number = int((tracefs.folder() / "events" / target / "id").read_text())
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, f"this kernel has no tracepoint {target}") from error
    return _open(_PerfEvent(type=PERF_TYPE_TRACEPOINT, config=number))


def _kprobe(hook: Hook) -> int:
    try:
        number = int((KPROBE_PMU / "type").read_text())
        bit = int((KPROBE_PMU / "format/retprobe").read_text().strip().removeprefix("config:"))
    except OSError as error:
        raise OSError(errno.ENOENT, "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)") from error
    name = ctypes.create_string_buffer(hook.target.encode())
    wanted = _PerfEvent(type=number, config=1 << bit if hook.family == "kretprobe" else 0)
    wanted.config1 = ctypes.addressof(name)
    return _open(wanted)


def _open(wanted: _PerfEvent) -> int:
    """perf_event_open(2) on one CPU, which is what BPF on a tracepoint or kprobe hangs on for all of them."""
    wanted.size = ctypes.sizeof(wanted)
    number = PERF_EVENT_OPEN.get(os.uname().machine, -1)
    fd: int = _LIBC.syscall(
        ctypes.c_long(number), ctypes.byref(wanted), EVERY_TASK, FIRST_CPU, -1, PERF_FLAG_FD_CLOEXEC
    )
    if fd < 0:
        error = ctypes.get_errno()
        more = f"; {FILTERED}" if error == errno.EPERM else ""
        raise OSError(error, f"perf_event_open(2): {os.strerror(error)}{more}")
    return fd
