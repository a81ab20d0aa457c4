# SPDX-License-Identifier: Apache-2.0
"""The BPF programs on a device's root cgroup: loaded, attached, pinned, and asked whether they still are.

Everything a loader makes is pinned below one folder of the BPF file system (maps/, programs/, links/), so
blocking outlives this process; Probes itself works on those pins alone, whoever made them. New programs are
attached before those of an earlier run are removed: at no moment is there none.
Needs root. May import: errors, events, structs, kernel.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from homebound.errors import HomeboundError, InternalError, PermissionMissing
from homebound.events import (
    Credit,
    Program,
    Role,
    Shape,
    Side,
    address_bytes,
)
from homebound.kernel import bpf, calls, loading, lsm, resources, syscalls
from homebound.kernel import pins as folders
from homebound.kernel.job import Job, Loader
from homebound.kernel.pins import LINKS, MAPS, PROGRAMS
from homebound.structs import EndpointRecord, SettingsRecord

# The programs of each object file. The packet filter first: it holds for whatever the others let through.
# Programs that only look on are in files of their own, so that none of them takes a wall with it.
OBJECTS: Mapping[str, tuple[Program, ...]] = {
    "egress": (Program.EGRESS, Program.INGRESS),
    "sockets": (
        Program.SOCK_CREATE,
        Program.CONNECT4,
        Program.CONNECT6,
        Program.SENDMSG4,
        Program.SENDMSG6,
    ),
    "syscalls": (Program.SYSCALL_EXIT,),
    "processes": (
        Program.PROCESS_FORK,
        Program.PROCESS_EXEC,
        Program.PROCESS_EXIT,
        Program.PROCESS_MOVE,
    ),
    "calls": (Program.CALLS,),
    "files": (Program.FILES,),
    "calltimes": (Program.CALL_ENTER, Program.CALL_EXIT),
    "resources": (Program.THREAD_EXIT, Program.THREAD_MOVE, Program.THREAD_LIVE),
    "uplink": (Program.UPLINK,),
    **lsm.OBJECTS,
}
SHARED_MAPS = (
    "role_by_cgroup",
    "allow",
    "traffic",
    "denied",
    "program_state",
    "events",
    "syscall_rule",
    "credit",
    "refused_sockets",
    "attempts",
    "members",
    "processes",
    "armed",
    "call_class",
    "calls",
    "dangerous",
    "mount_area",
    "opens",
    "resources",
    "call_times",
    "uplink",
    "link_header",
    "refused_calls",
    "area_of",
    "lesson",
)
ENFORCE_CGROUP, ENFORCE_HOOKS = 1, 2  # bits of hb_settings.enforce
REQUIRED, WANTED, OFF = "required", "wanted", "off"
TCP = 6


class ProbeError(HomeboundError):
    """A program or map is not there or does not do what it was told."""


@dataclass(frozen=True)
class Allowance:
    """What the gateway may send without a grant: bytes of stream a second, and at the most at once."""

    rate: int
    burst: int


@dataclass(frozen=True)
class ProgramState:
    """What the kernel says of a program now. ``reason``: why it is not attached, "" when it is.
    ``runs`` and ``run_seconds`` count since load. ``need``: REQUIRED, WANTED, or OFF by the settings."""

    name: str
    attached: bool
    reason: str
    runs: int
    run_seconds: float
    need: str


@dataclass
class Probes:
    """Open pins of one device. ``reasons``: what the loader said of programs that it could not attach."""

    pins: Path
    cgroup_id: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    off: Mapping[Program, str] = field(default_factory=dict)
    loader: Loader = "libbpf"
    maps: dict[str, int] = field(default_factory=dict)
    programs_open: dict[str, tuple[int, int]] = field(default_factory=dict)
    # Programs that are attached elsewhere, and why one is not yet: kernel.uplinks knows.
    unlinked: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    # Whether an earlier run, which did not end by itself, may have left a program on the host's links.
    inherited_uplink: bool = False
    stats: int | None = None

    @classmethod
    def load(
        cls,
        objects: Path,
        cgroup: Path,
        role_level: int,
        enforce: bool,
        pins: Path,
        allowance: Allowance | None = None,
        off: Mapping[Program, str] | None = None,
        loader: Loader = "libbpf",
        compiled: Path | None = None,
        count_calls: bool = False,
        hooks_enforce: bool | None = None,
    ) -> Probes:
        """Load the objects of a folder and attach them to a cgroup before any task is below it.

        ``role_level``: depth of the role cgroups below the root of the hierarchy, which is 0.
        ``allowance``: what the gateway may send besides what is granted; without it, it needs no credit.
        ``count_calls``: whether every system call of a role is counted by its class.
        ``loader``: who loads; ``compiled``: a file in which bcc's instructions are kept between loads.
        ``pins``: a folder on the BPF file system; what an earlier run left there goes once the new programs
        are in place, and stays when a required one is not. ``off``: programs to leave out, and why.
        ``hooks_enforce``: whether those on security hooks deny, if not as the others.
        A program that cannot be attached is a fact, told by ``programs()``; a required object that cannot be
        read at all raises.
        """
        free = allowance or Allowance(0, 0)
        hooks = enforce if hooks_enforce is None else hooks_enforce
        denying = ENFORCE_CGROUP * enforce | ENFORCE_HOOKS * hooks
        settings = SettingsRecord(role_level, denying, free.rate, free.burst, int(count_calls))
        with _rights_needed(), _descriptor(cgroup) as cgroup_fd:
            old = folders.set_aside(pins)
            probes = cls(pins, os.fstat(cgroup_fd).st_ino, off=off or {})
            left = [pins / folder / PROGRAMS / Program.UPLINK.bpf_name for folder in old]
            probes.inherited_uplink = any(path.exists() for path in left)
            try:
                contents = {"syscall_rule": tuple(_syscall_rules())}
                if count_calls or Program.CALL_EXIT not in probes.off:
                    contents["call_class"] = tuple(_call_classes())
                absent = dict.fromkeys(lsm.PROGRAMS, lacking) if (lacking := lsm.lacking()) else {}
                left_out = {*probes.off, *absent}
                job = Job(OBJECTS, SHARED_MAPS, contents, bytes(settings), cgroup_fd, pins, left_out)
                probes.loader, reasons = loading.load(loader, objects, job, compiled)
                probes.reasons = reasons | {program.bpf_name: why for program, why in absent.items()}
                probes._open()
                probes.assign(probes.cgroup_id, Role.NONE)
            except BaseException:
                probes.close()
                folders.remove(pins, folders.FOLDERS)
                raise
            if not missing(probes.programs()):
                folders.remove(pins, old)
        return probes

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, for reading and writing. It stays ours."""
        try:
            return self.maps[name]
        except KeyError:
            raise InternalError(f"there is no map {name}", "report this") from None

    def read_fd(self, name: str) -> int:
        """A new read-only descriptor of a map, to hand to a role. The caller closes it."""
        return bpf.open_pin(self.pins / MAPS / name, bpf.F_RDONLY)

    def programs(self) -> tuple[ProgramState, ...]:
        """Every program, asked of the kernel at this moment."""
        return tuple(self._state(program) for program in Program)

    def assign(self, cgroup_id: int, role: Role) -> None:
        """Give a cgroup, and all below it, a role."""
        bpf.update(
            self.map_fd("role_by_cgroup"), bytes(ctypes.c_uint64(cgroup_id)), bytes(ctypes.c_uint32(role))
        )

    def arm(self) -> None:
        """From now on a move of a process out of a role or into one is an attempt, unless the supervisor
        makes it. Before, the start makes moves of its own. Nothing happens where no program looks."""
        if "armed" in self.maps:
            bpf.update(self.map_fd("armed"), bytes(4), bytes(ctypes.c_uint32(1)))

    def look_at_threads(self) -> None:
        """Have what living threads used so far added up. Nothing happens where no program looks."""
        if (name := Program.THREAD_LIVE.bpf_name) in self.programs_open:
            resources.look(self.programs_open[name][1])

    def unassign(self, cgroup_id: int) -> None:
        """Take the role back: what is left in the cgroup is denied everything."""
        bpf.delete(self.map_fd("role_by_cgroup"), bytes(ctypes.c_uint64(cgroup_id)))

    def allow(self, role: Role, address: str, port: int, protocol: int = TCP, direction: int = 0) -> None:
        """Let a role send to an address and port, or (``direction`` 1, address "") from a local port.

        Trainer, guard and canary have no network, whatever the map says: for them it is our bug.
        """
        if role not in (Role.SUPERVISOR, Role.WATCHER, Role.GATEWAY):
            raise InternalError(f"{role.label} must not be allowed to send", "report this")
        key = _endpoint(role, address, port, protocol, direction)
        bpf.update(self.map_fd("allow"), key, bytes(8))

    def revoke(self, role: Role, address: str, port: int, protocol: int = TCP, direction: int = 0) -> None:
        """Take it back; connections that stand are cut off too. Nothing happens when it was not there."""
        bpf.delete(self.map_fd("allow"), _endpoint(role, address, port, protocol, direction))

    def credit(self) -> dict[Credit, int]:
        """Bytes granted to the gateway by each writer, and how many of them were used."""
        word = ctypes.create_string_buffer(8)
        found = {}
        for cell in Credit:
            bpf.lookup(self.map_fd("credit"), bytes(ctypes.c_uint32(cell)), word)
            found[cell] = int.from_bytes(word.raw, sys.byteorder)
        return found

    def grant(self, count: int) -> None:
        """Let the gateway send ``count`` more bytes of stream, or fewer if it is negative.

        Works on the supervisor's own cell, so it takes nothing from a grant that the guard makes meanwhile.
        """
        mine = (self.credit()[Credit.SUPERVISOR] + count) % (1 << 64)
        key, value = bytes(ctypes.c_uint32(Credit.SUPERVISOR)), bytes(ctypes.c_uint64(mine))
        bpf.update(self.map_fd("credit"), key, value)

    def drop(self, program: Program, reason: str) -> None:
        """Take one program off that cannot do its work."""
        name = program.bpf_name
        for fd in self.programs_open.pop(name, ()):
            os.close(fd)
        for folder in (LINKS, PROGRAMS):
            (self.pins / folder / name).unlink(missing_ok=True)
        self.reasons = {**self.reasons, name: reason}

    def close(self) -> None:
        """Let go of the descriptors. The pins, and so the programs, stay in force."""
        for fd in (*self.maps.values(), *self.unlinked.values(), *sum(self.programs_open.values(), ())):
            os.close(fd)
        if self.stats is not None:
            os.close(self.stats)
        self.maps, self.programs_open, self.unlinked, self.stats = {}, {}, {}, None

    def remove(self) -> None:
        """Detach the programs and remove every pin, those of earlier runs too."""
        self.close()
        folders.remove(self.pins, [folder.name for folder in self.pins.iterdir()])
        self.pins.rmdir()

    def _open(self) -> None:
        self.maps = {path.name: bpf.open_pin(path) for path in (self.pins / MAPS).iterdir()}
        for path in (self.pins / LINKS).iterdir():
            program, link = bpf.open_pin(self.pins / PROGRAMS / path.name), bpf.open_pin(path)
            self.programs_open[path.name] = (program, link)
        for path in (self.pins / PROGRAMS).iterdir():
            if path.name not in self.programs_open:
                self.unlinked[path.name] = bpf.open_pin(path)
        self.stats = bpf.enable_stats()

    def _state(self, program: Program) -> ProgramState:
        name, need = program.bpf_name, REQUIRED if program.is_required else WANTED
        if program in self.off:
            return ProgramState(name, False, self.off[program], 0, 0.0, OFF)
        if name in self.unlinked:
            info, reason = bpf.program_info(self.unlinked[name]), self.elsewhere.get(name, "")
            return ProgramState(name, not reason, reason, info.runs, info.run_seconds, need)
        if name not in self.programs_open:
            return ProgramState(name, False, self.reasons.get(name, "not loaded"), 0, 0.0, need)
        program_fd, link_fd = self.programs_open[name]
        info, link = bpf.program_info(program_fd), bpf.link_info(link_fd)
        reason = ""
        if link.program != info.id:
            reason = "another program was put in its place"
        elif link.cgroup not in (None, self.cgroup_id):
            reason = "was detached from the cgroup"
        return ProgramState(name, not reason, reason, info.runs, info.run_seconds, need)


def missing(programs: Collection[ProgramState], need: str = REQUIRED) -> list[ProgramState]:
    """Those of that need that are not attached."""
    return [state for state in programs if state.need == need and not state.attached]


def _endpoint(role: Role, address: str, port: int, protocol: int, direction: int) -> bytes:
    bare = Side(direction) is Side.FROM_LOCAL
    try:
        raw = bytes(16) if bare else address_bytes(address)
    except ValueError as error:
        raise ProbeError(str(error), "give an address, not a name") from error
    return bytes(EndpointRecord(role, port, protocol, direction, (ctypes.c_uint8 * 16)(*raw)))


def _syscall_rules() -> Iterator[tuple[bytes, bytes]]:
    """The contents of syscall_rule."""
    for number in syscalls.resolve({"close": None}):
        yield bytes(ctypes.c_uint32(number)), bytes(ctypes.c_uint32(Shape.CANARY << 16))
    for number, (rule, shape) in syscalls.numbers().items():
        value = ctypes.c_uint32(syscalls.rule_value(rule, shape))
        yield bytes(ctypes.c_uint32(number)), bytes(value)


def _call_classes() -> Iterator[tuple[bytes, bytes]]:
    """The contents of call_class."""
    for number, kind in calls.classes().items():
        yield bytes(ctypes.c_uint32(number)), bytes(ctypes.c_uint32(kind))


@contextmanager
def _rights_needed() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionMissing(f"BPF programs cannot be loaded: {error}", "run as root") from error


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ProbeError(f"cannot open the cgroup {folder}: {error.strerror}", "make it first") from error
    try:
        yield fd
    finally:
        os.close(fd)
