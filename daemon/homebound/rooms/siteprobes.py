# SPDX-License-Identifier: Apache-2.0
"""A site's own probes of one device: loaded once at start, in a child, and gone with the walls.

None of them can stop the start: one that is refused, does not compile or does not load has its reason in
status, doctor, journal and metric. May import: errors, events, journal, settings, rooms.instance, kernel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homebound import journal
from homebound.errors import HomeboundError
from homebound.events import Role
from homebound.kernel import bccchild, bpf, pins, siteplan
from homebound.kernel.siteplan import Plan
from homebound.rooms.instance import Instance

CHILD = "homebound.kernel.siteload"
FOLDER = "site"
INCLUDE = Path(__file__).parents[1] / "bpf_sources" / "include"
ROLES = tuple(role for role in Role if role.label in siteplan.ROLES)


@dataclass(frozen=True)
class Site:
    """What came of the probes of a folder. ``states``: name, reason and hint of each; ``cut``: series that
    were beyond the ceiling."""

    pins: Path
    states: tuple[Mapping[str, str], ...] = ()
    plans: tuple[Plan, ...] = ()
    cut: int = 0

    def fds(self) -> dict[str, int]:
        """Read-only descriptors of the maps that become metrics, by a name. The caller closes them."""
        return {
            f"site:{plan.name}:{metric.map}": bpf.open_pin(
                self.pins / plan.name / pins.MAPS / metric.map, bpf.F_RDONLY
            )
            for plan in self.plans
            for metric in plan.metrics
        }

    def document(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        """What the watcher is told: each metric with the number of its map's descriptor."""
        metrics = [
            asdict(metric) | {"map": numbers[f"site:{plan.name}:{metric.map}"]}
            for plan in self.plans
            for metric in plan.metrics
        ]
        loaded = {state["name"]: not state["reason"] for state in self.states}
        return {"metrics": metrics, "loaded": loaded, "cut": self.cut}


def load(folder: Path, place: Instance) -> Site:
    """Load what lies in the folder. Raises nothing that a probe could cause."""
    site = place.pins / FOLDER
    if site.exists():  # an earlier run's, which was killed
        pins.remove(place.pins, (FOLDER,))
    names = siteplan.names(folder)
    if not names:
        return Site(site)
    try:
        answer = _run(folder, site, place)
    except (HomeboundError, OSError) as error:
        pins.remove(place.pins, (FOLDER,))  # what a child that was ended half-way had in place
        states = [{"name": name, "reason": str(error), "hint": ""} for name in names]
        answer = {"probes": states, "plans": [], "cut": 0}
    for state in answer["probes"]:
        if state["reason"]:
            journal.site_probe_failed(state["name"], state["reason"])
    return Site(site, tuple(answer["probes"]), tuple(siteplan.from_document(answer["plans"])), answer["cut"])


def _run(folder: Path, site: Path, place: Instance) -> dict[str, Any]:
    site.mkdir(mode=0o700)
    with ExitStack() as held:
        cgroups = {"": place.root.path} | {role.label: place.cgroup(role).path for role in ROLES}
        fds = {name: os.open(path, os.O_RDONLY | os.O_DIRECTORY) for name, path in cgroups.items()}
        for fd in fds.values():
            held.callback(os.close, fd)
        order = {"folder": str(folder), "include": str(INCLUDE), "pins": str(site), "cgroups": fds}
        return bccchild.run(CHILD, order, tuple(fds.values()))
