# SPDX-License-Identifier: Apache-2.0
"""The walls of one device in the kernel: cgroups, BPF programs, what each role may send.

Built before any role starts and removed after the last one ended. What is built here is tried by the
canary (launch.try_walls) before anybody relies on it. May import: books.accounts, errors, events,
rooms.areas, rooms.bounds, rooms.granting, rooms.instance, rooms.metricsport, rooms.resolve, rooms.roles,
settings, kernel.
Source: bpf-cgroup(7), cgroup-v2.rst, mount(8).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebound.books.accounts import Accounts
from homebound.errors import PermissionMissing, ServiceUnavailable
from homebound.events import Program, Role, Side
from homebound.kernel import bpf, bpffs, cgroups, features, files, lsm
from homebound.kernel.probes import Allowance, Probes, missing
from homebound.rooms import areas, bounds, granting, instance, metricsport, resolve, roles, siteprobes
from homebound.rooms.instance import ROLES, Instance
from homebound.rooms.metricsport import MetricsPort
from homebound.rooms.patience import Told, never
from homebound.settings import Settings

OBJECTS = Path(__file__).parents[1] / "bpf_objects"
# What the watcher reads besides the ring buffer; it gets these maps and no others.
COUNTER_MAPS = ("traffic", "denied", "attempts", "program_state")
# What wanted programs count; missing where such a program does not load.
TRACE_MAPS = ("processes", "calls", "opens", "resources", "call_times", "uplink")
# Roles whose use of processor, memory and disk is exported.
WATCHED_ROLES = (Role.SUPERVISOR, Role.WATCHER, Role.TRAINER, Role.GUARD, Role.GATEWAY)


@dataclass
class Walls:
    """What stands for one device."""

    config: Settings
    place: Instance
    probes: Probes
    port: MetricsPort
    pinboard: bpffs.Hold
    no_swap: bool
    granting: granting.Granting
    site: siteprobes.Site
    dial: str = ""
    addresses: tuple[str, ...] = ()

    def allow_federation(self, told: Told = never) -> str:
        """Let the gateway send to one address of the federation and nowhere else; which, "" if unknown.

        A name is asked anew each time, so that a federation that moved is found again.
        """
        host = self.config.federation.host
        try:
            with self._asking(host):
                # A SuperLink listens on IPv4 unless told otherwise, and Debian's localhost is ::1 first.
                found = sorted(resolve.addresses(host, told=told), key="::1".__eq__)
        except ServiceUnavailable:
            return ""
        self.addresses = tuple(found)
        if self.dial not in found:
            self._move(found[0])
        return self.dial

    def other_address(self) -> str:
        """The next address of the federation's name, "" if there is no other."""
        if len(self.addresses) < 2:
            return ""
        return self.addresses[(self.addresses.index(self.dial) + 1) % len(self.addresses)]

    def turn_to_other(self) -> None:
        """Let the gateway reach that one instead. It must have let go of the one before: what it still sends
        there is denied, and a violation."""
        if address := self.other_address():
            self._move(address)

    def _move(self, address: str) -> None:
        """At no moment are two allowed."""
        port = self.config.federation.port
        if self.dial:
            self.probes.revoke(Role.GATEWAY, self.dial, port)
        self.dial = address
        self.probes.allow(Role.GATEWAY, address, port)

    @contextmanager
    def _asking(self, host: str) -> Iterator[None]:
        """The supervisor may ask this host's name servers while a question is open, and only then."""
        servers = [] if resolve.is_address(host) else resolve.nameservers()
        routes = [
            (server, protocol) for server in servers for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
        ]
        for server, protocol in routes:
            self.probes.allow(Role.SUPERVISOR, server, resolve.DNS_PORT, protocol)
        try:
            yield
        finally:
            for server, protocol in routes:
                self.probes.revoke(Role.SUPERVISOR, server, resolve.DNS_PORT, protocol)

    def watched(self) -> dict[str, int]:
        """Descriptors for the watcher by name: maps, the metrics port's, files of the role cgroups.

        The caller closes them. Counters are opened for reading only; a reader of the ring buffer has to
        write how far it read.
        """
        there = [name for name in TRACE_MAPS if name in self.probes.maps]
        fds = {f"map:{name}": self.probes.read_fd(name) for name in (*COUNTER_MAPS, *there)}
        fds["map:events"] = os.dup(self.probes.map_fd("events"))
        fds |= self.port.descriptors()
        fds |= self.site.fds()
        for role in WATCHED_ROLES:
            for name, fd in self.place.cgroup(role).open_files().items():
                if name in ("cgroup.freeze", "cgroup.kill") and role is not Role.TRAINER:
                    os.close(fd)
                    continue
                fds[f"cgroup:{role.label}:{name}"] = fd
        return fds

    def forget_files(self) -> None:
        """Count no opens until the next trainer's mounts are told."""
        if "mount_area" in self.probes.maps:
            files.forget(self.probes.map_fd("mount_area"))

    def tell_files(self, pid: int) -> None:
        """Have the opens of the trainer counted, now that it sees what it will see."""
        if "mount_area" in self.probes.maps:
            with suppress(OSError):  # it ended already, and somebody else hears of that
                files.tell(self.probes.map_fd("mount_area"), pid, roles.FILE_AREAS)

    def hooks(self) -> frozenset[str]:
        """The programs on security hooks that the canary can try, by the names of its trials."""
        return frozenset(program.label for program in areas.attached(self.probes))

    def credit_fd(self, books: Accounts) -> int:
        """The map that the guard grants in; it stays ours. What waits from earlier lives is paid for now."""
        outbox = self.place.gateway_state / "outbox"
        self.granting.inherit([path.stem for path in outbox.glob("*")], books)
        return self.probes.map_fd("credit")

    def remove(self) -> None:
        """Take the programs off and give back what was made."""
        self.port.listener.close()
        self.probes.remove()
        _give_back(self.place, self.pinboard)


def build(config: Settings, place: Instance) -> Walls:
    """Cgroups, then programs, then ourselves in our own cgroup. Raises HomeboundError if one fails."""
    _require_bpf()
    pinboard = bpffs.hold()
    try:
        instance.make_tree(place)
        return _build(config, place, pinboard)
    except BaseException:
        _give_back(place, pinboard)
        raise


def _build(config: Settings, place: Instance, pinboard: bpffs.Hold) -> Walls:
    role_cgroups = {role: place.cgroup(role) for role in ROLES}
    loaded = Probes.load(
        objects=OBJECTS,
        cgroup=place.root.path,
        role_level=role_cgroups[Role.TRAINER].level(),
        enforce=config.mode == "enforce",
        count_calls=config.count_calls,
        off=_left_out(config),
        pins=place.pins,
        allowance=Allowance(granting.rate(config.federation.poll_seconds), granting.BURST_BYTES),
        loader=config.loader,
    )
    try:
        _require_all(loaded)
        for role, cgroup in role_cgroups.items():
            loaded.assign(cgroup.id(), role)
        loaded.allow(Role.WATCHER, "", config.metrics.port, direction=Side.FROM_LOCAL)
        site = siteprobes.load(Path(config.paths.probes), place)
        role_cgroups[Role.SUPERVISOR].add(0)
        areas.tell(config, place, loaded, role_cgroups[Role.SUPERVISOR].id())
        _require_lsm(config, loaded)
        place.root.delegate()
        bounds.limit(role_cgroups[Role.TRAINER], config.trainer)
        no_swap = role_cgroups[Role.TRAINER].set("memory.swap.max", "0")
        port = metricsport.build(config.metrics, place)
        loaded.arm()
    except BaseException:
        loaded.remove()
        raise
    credit = granting.Granting(loaded.grant, loaded.credit)
    return Walls(config, place, loaded, port, pinboard, no_swap, credit, site)


def _left_out(config: Settings) -> dict[Program, str]:
    """Programs that the settings switch off."""
    wanted = {
        Program.CALLS: (config.count_calls, "count_calls"),
        Program.FILES: (config.kernel.count_opens, "kernel.count_opens"),
        Program.CALL_ENTER: (config.kernel.time_calls, "kernel.time_calls"),
        Program.CALL_EXIT: (config.kernel.time_calls, "kernel.time_calls"),
        Program.UPLINK: (config.kernel.uplink_meter, "kernel.uplink_meter"),
    }
    hooks = (config.kernel.security_hooks or "bpf-lsm" in config.require, "kernel.security_hooks")
    wanted |= dict.fromkeys(lsm.PROGRAMS, hooks)
    return {program: f"switched off by the setting {key}" for program, (on, key) in wanted.items() if not on}


def settle(walls: Walls | None, report: Mapping[str, Any], before: Accounts, after: Accounts) -> None:
    """What one report means for the gateway's credit. Nothing before the walls stand."""
    if walls is not None:
        walls.granting.follow(report, before, after)


def _require_bpf() -> None:
    """Before anything is made, since what libbpf says of a kernel that refuses it all is long and unclear."""
    try:
        os.close(bpf.create_array())
    except PermissionError as error:
        raise PermissionMissing(
            f"this kernel refuses BPF: {os.strerror(error.errno or errno.EPERM)}",
            "run as root on the host, or in a container with the rights that docs/install.md lists",
        ) from error
    except OSError as error:
        raise ServiceUnavailable(
            f"this kernel has no BPF: {os.strerror(error.errno or errno.ENOSYS)}",
            "boot one with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF; `homebound doctor` names all it needs",
        ) from error


def _give_back(place: Instance, pinboard: bpffs.Hold) -> None:
    """Remove the folders of the pins as far as nothing is in them, and let go of the file system."""
    for folder in (place.pins, place.pins.parent):
        with suppress(OSError):  # an earlier run, or another device of this host, has pins there
            folder.rmdir()
    pinboard.release()


def _require_all(loaded: Probes) -> None:
    lacking = missing(loaded.programs())
    if lacking:
        raise ServiceUnavailable(
            "kernel programs did not attach: " + "; ".join(f"{p.name}: {p.reason}" for p in lacking),
            "`homebound doctor` names what this kernel lacks",
        )


def _require_lsm(config: Settings, loaded: Probes) -> None:
    lacking = [state for state in areas.states(loaded) if not state.attached]
    if lacking and "bpf-lsm" in config.require:
        raise ServiceUnavailable(
            f"the wall bpf-lsm is required and not there: {lacking[0].name}: {lacking[0].reason}",
            "take bpf-lsm out of `require`, or boot a kernel that has it",
        )


def watcher_document(standing: Walls, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the watcher is told: its name and mode, and under which number it finds each descriptor."""
    config = standing.config
    maps: dict[str, int] = {}
    files: dict[str, int] = {}
    groups: dict[str, dict[str, int]] = {}
    for name, number in numbers.items():
        kind, *rest = name.split(":")
        if kind == "map":
            maps[rest[0]] = number
        elif kind == "file":
            files[rest[0]] = number
        elif kind == "cgroup":
            groups.setdefault(rest[0], {})[rest[1]] = number
    return {
        "name": config.name,
        "mode": config.mode,
        "maps": maps,
        "cgroups": groups,
        "listen_fd": numbers["listen"],
        "files": files,
        "features": kernel_features(),
        "loader": standing.probes.loader,
        "site": standing.site.document(numbers),
        "canary_interval_seconds": config.canary.interval_seconds,
    }


def kernel_features() -> dict[str, bool]:
    """What this kernel can do, each tried where it can be tried."""
    modules = features.lsm() or ()
    controllers = (cgroups.mount() / "cgroup.controllers").read_text().split()
    return {
        "btf": features.btf().present,
        "bpf_programs": features.bpf_programs().present,
        "bpf_lsm": "bpf" in modules,
        "seccomp": features.seccomp().present,
        "landlock": features.landlock_abi() > 0,
        "sched_info": features.sched_info().present,
        "task_io": features.task_io().present,
        "cgroup_controllers": set(cgroups.CONTROLLERS) <= set(controllers),
    }
