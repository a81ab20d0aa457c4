# SPDX-License-Identifier: Apache-2.0
"""Tell the program on file_open which folders are the data, which are a role's own, which the host's.

Before any role starts. Where one of them cannot be told the program is taken off again, with the reason: it
would refuse a role its own files. May import: kernel, rooms.instance, settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from homebound.events import Program
from homebound.kernel import lsm
from homebound.kernel.lsm import Area
from homebound.kernel.probes import Probes, ProgramState
from homebound.rooms.instance import Instance
from homebound.settings import Settings


def attached(probes: Probes) -> frozenset[Program]:
    """The programs on security hooks that are in place."""
    return frozenset(program for program in lsm.PROGRAMS if program.bpf_name in probes.programs_open)


def states(probes: Probes) -> tuple[ProgramState, ...]:
    """All programs on security hooks, as they are now."""
    names = {program.bpf_name for program in lsm.PROGRAMS}
    return tuple(state for state in probes.programs() if state.name in names)


def tell_host(probes: Probes, cgroup: int) -> None:
    """The memory file systems that are here now. One that is mounted later passes for a role's own."""
    for path in lsm.host_memory():
        with suppress(OSError):  # hidden below another mount, say: no role sees it either
            lsm.tell(probes.map_fd("lesson"), cgroup, path, Area.HOST)


def tell(config: Settings, place: Instance, probes: Probes, cgroup: int) -> None:
    """``cgroup``: id of the cgroup that the calling process is in."""
    if Program.LSM_OPEN not in attached(probes):
        return
    lesson = probes.map_fd("lesson")
    tell_host(probes, cgroup)
    for path, area in _own(config, place):
        try:
            if lsm.tell(lesson, cgroup, path, area):
                continue
            reason = f"it did not see {path} being opened"
        except OSError as error:
            reason = f"{path} cannot be opened: {os.strerror(error.errno or 0)}"
        probes.drop(Program.LSM_OPEN, reason)
        return


def _own(config: Settings, place: Instance) -> Iterator[tuple[Path, Area]]:
    yield Path(config.data.path), Area.DATA
    yield place.guard_state, Area.GUARD
    yield place.gateway_state, Area.GATEWAY
    yield place.credentials, Area.CREDENTIALS
