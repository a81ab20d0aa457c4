# SPDX-License-Identifier: Apache-2.0
"""The child that compiles and loads a site's own probes, and ends: `python -m homebound.kernel.siteload`.

One order in as JSON, one answer out, as kernel/bccload.py. Each probe stands or falls alone and whole; what
it leaves is pinned below a folder of its name. Needs root. May import: errors, kernel.bcccompile,
kernel.bccload, kernel.bpfmake, kernel.bytecode, kernel.hooks, kernel.sitecode, kernel.siteplan.
Source: stat(2), bpf(2).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from homebound.errors import HomeboundError
from homebound.kernel import bcccompile, bccload, bpfmake, hooks, sitecode, siteplan
from homebound.kernel.bytecode import Object
from homebound.kernel.siteplan import Plan, SiteProbeError

ARRAY, PERCPU_ARRAY = 2, 6
COUNT_BYTES = 8
FOLDERS = ("maps", "programs", "links")


@dataclass(frozen=True)
class Order:
    """What is to be loaded. ``cgroups``: descriptors by role, "" for the device's own."""

    folder: str
    include: str
    pins: str
    cgroups: Mapping[str, int]


def main() -> int:
    """Read the order, do it, answer with every probe's plan or the reason that it is not there."""
    order = Order(**json.loads(sys.stdin.read()))
    bccload.lift_memory_limit()
    answers: list[dict[str, str]] = []
    plans: list[Plan] = []
    for name in siteplan.names(Path(order.folder)):
        answer = {"name": name, "reason": "", "hint": ""}
        try:
            plans.append(_load(name, order, {metric.name for plan in plans for metric in plan.metrics}))
        except HomeboundError as error:
            answer |= {"reason": error.message, "hint": error.hint}
        except OSError as error:
            answer |= {"reason": f"{name}: {error.strerror or error}"}
        answers.append(answer)
    kept, lost = siteplan.cut(tuple(plans))
    sys.stdout.write(json.dumps({"probes": answers, "plans": [asdict(plan) for plan in kept], "cut": lost}))
    return 0


def read_trusted(path: Path) -> str:
    """A file that only root can have written; its folder, too. Raises SiteProbeError."""
    for place in (path.parent, path):
        try:
            found = place.lstat()
        except FileNotFoundError:
            raise SiteProbeError(f"{place} is missing", "a probe is NAME.c and NAME.toml") from None
        if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise SiteProbeError(f"{place} is no regular file", "put the file itself there")
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SiteProbeError(
                f"{place} may be written by others than root", f"chown root {place}; chmod go-w {place}"
            )
    return path.read_text()


def _load(name: str, order: Order, taken: Set[str]) -> Plan:
    if not siteplan.NAME.fullmatch(name):
        raise SiteProbeError(f"{name!r} is no name for a probe", "small letters, digits and _ only")
    source = Path(order.folder) / f"{name}.c"
    plan = siteplan.parse(name, read_trusted(source.with_suffix(".toml")))
    if twice := sorted(taken & {metric.name for metric in plan.metrics}):
        raise SiteProbeError(f"{twice[0]} is a metric of another probe, too", f"change {name}.toml")
    read_trusted(source)
    wanted = bcccompile.compile_file(source, Path(order.include))
    _require_shapes(plan, wanted)
    pins = Path(order.pins) / name
    for folder in FOLDERS:
        (pins / folder).mkdir(mode=0o700, parents=True)
    try:
        _place_all(plan, wanted, order.cgroups[plan.cgroup], pins)
    except BaseException:
        shutil.rmtree(pins)
        raise
    return plan


def _require_shapes(plan: Plan, wanted: Object) -> None:
    """Whether the maps are what the metrics say."""
    shapes = {shape.name: shape for shape in wanted.maps}
    for metric in plan.metrics:
        shape = shapes.get(metric.map)
        if shape is None:
            raise SiteProbeError(f"{plan.name}.c has no map {metric.map}", "declare it by HB_MAP")
        if shape.type not in (ARRAY, PERCPU_ARRAY) or shape.value_bytes != COUNT_BYTES:
            raise SiteProbeError(
                f"the map {metric.map} is no array of 64-bit counts", "make it PERCPU_ARRAY of __u64"
            )
        if shape.entries != metric.elements():
            raise SiteProbeError(
                f"the map {metric.map} has {shape.entries} elements and not {metric.elements()}",
                "one for each combination of labels; a histogram: its slots and one more",
            )


def _place_all(plan: Plan, wanted: Object, cgroup: int, pins: Path) -> None:
    if not wanted.programs:
        raise SiteProbeError(f'{plan.name}.c has no program: SEC("...") and int name(', "see docs/probes.md")
    with ExitStack() as held:
        fds = {}
        for shape in wanted.maps:
            fds[shape.number] = bpfmake.create_map(shape)
            held.callback(os.close, fds[shape.number])
            bpfmake.pin(fds[shape.number], pins / "maps" / shape.name)
        for code in wanted.programs:
            _require_place(code.name, code.section)
            reason = bccload.place(sitecode.harmless(code), wanted.license, fds, cgroup, pins)
            if reason:
                raise SiteProbeError(f"{code.name} does not load: {reason}", "homebound doctor")


def _require_place(name: str, section: str) -> None:
    try:
        family = hooks.read(section).family
    except LookupError as error:
        raise SiteProbeError(f"{name}: {error}", "docs/probes.md lists where a probe may hang") from None
    if family not in sitecode.FAMILIES or (family == "cgroup" and section not in sitecode.CGROUP_SECTIONS):
        raise SiteProbeError(f"{name}: a probe may not hang on {section}", "docs/probes.md says where")


if __name__ == "__main__":
    sys.exit(main())
