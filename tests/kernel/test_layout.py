# SPDX-License-Identifier: Apache-2.0
"""bpf/include/homebound.h and events.py say the same: every struct, field, size, offset and number."""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from homebound import events, structs
from homebound.kernel import calltimes, files, lsm, resources

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "hb_settings": structs.SettingsRecord,
    "hb_endpoint": structs.EndpointRecord,
    "hb_traffic": structs.TrafficRecord,
    "hb_program_state": structs.ProgramStateRecord,
    "hb_stream": structs.StreamRecord,
    "hb_processes": structs.ProcessesRecord,
    "hb_calls": structs.CallsRecord,
    "hb_event": structs.EventRecord,
    "hb_place": lsm.PlaceRecord,
    "hb_lesson": lsm.LessonRecord,
    "hb_mount": files.MountRecord,
    "hb_call_times": calltimes.CallTimesRecord,
    "hb_resources": resources.ResourcesRecord,
}
# Python enum, prefix of the names in C, and the names in C that only bound a table.
ENUMS: dict[str, tuple[type[enum.IntEnum | enum.IntFlag], str, dict[str, int]]] = {
    "hb_role": (events.Role, "HB_ROLE_", {"HB_ROLES_MAX": events.ROLES_MAX}),
    "hb_rule": (events.Rule, "HB_RULE_", {"HB_RULES_MAX": events.RULES_MAX}),
    "hb_credit": (events.Credit, "HB_CREDIT_", {"HB_CREDIT_MAX": events.CREDIT_MAX}),
    "hb_kind": (events.Kind, "HB_KIND_", {}),
    "hb_class": (events.CallClass, "HB_CLASS_", {"HB_CLASSES_MAX": events.CLASSES_MAX}),
    "hb_flag": (events.Flag, "HB_FLAG_", {}),
    "hb_program": (events.Program, "HB_PROGRAM_", {"HB_PROGRAMS_MAX": events.PROGRAMS_MAX}),
    "hb_direction": (events.Direction, "HB_", {}),
    "hb_family": (events.Family, "HB_", {}),
    "hb_protocol": (events.Protocol, "HB_", {}),
    "hb_verdict": (events.Verdict, "HB_", {}),
    "hb_side": (events.Side, "HB_", {}),
    "hb_canary": (events.Canary, "HB_CANARY_", {}),
    "hb_shape": (events.Shape, "HB_SHAPE_", {}),
    "hb_right": (lsm.Right, "HB_RIGHT_", {}),
    "hb_loses": (lsm.Loses, "HB_LOSES_", {}),
    "hb_area": (lsm.Area, "HB_AREA_", {}),
    "hb_file_area": (files.FileArea, "HB_FILE_AREA_", {"HB_FILE_AREAS_MAX": files.AREAS_MAX}),
    "hb_file_mode": (files.FileMode, "HB_FILE_MODE_", {"HB_FILE_MODES_MAX": files.MODES_MAX}),
}


@pytest.fixture(scope="module")
def types(objects: Path) -> dict[int, dict[str, Any]]:
    """BTF types of layout.bpf.o by id."""
    command = ["bpftool", "-j", "btf", "dump", "file", str(objects / "layout.bpf.o")]
    dump = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {entry["id"]: entry for entry in dump["types"]}


def _named(types: dict[int, dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    found = [entry for entry in types.values() if (entry["kind"], entry["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind} {name}: {len(found)} in BTF"
    return found[0]


def _size(types: dict[int, dict[str, Any]], number: int) -> int:
    entry = types[number]
    if entry["kind"] == "ARRAY":
        return int(entry["nr_elems"]) * _size(types, entry["type_id"])
    return int(entry["size"]) if "size" in entry else _size(types, entry["type_id"])


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_mirrored(types: dict[int, dict[str, Any]], name: str) -> None:
    """Names, order, offsets and sizes, and no hidden padding."""
    mirror, found = STRUCTS[name], _named(types, "STRUCT", name)
    kernel = [
        (member["name"], member["bits_offset"] // 8, _size(types, member["type_id"]))
        for member in found["members"]
    ]
    ours = [
        (field, getattr(mirror, field).offset, getattr(mirror, field).size) for field, *_ in mirror._fields_
    ]
    assert ours == kernel
    assert ctypes.sizeof(mirror) == found["size"] == sum(size for _, _, size in kernel)


def test_no_struct_is_forgotten(types: dict[int, dict[str, Any]]) -> None:
    """Whoever adds a struct to the header adds it here."""
    assert {entry["name"] for entry in types.values() if entry["kind"] == "STRUCT"} == set(STRUCTS)


@pytest.mark.parametrize("name", ENUMS)
def test_enum_is_mirrored(types: dict[int, dict[str, Any]], name: str) -> None:
    """Every name and number, and no other."""
    mirror, prefix, bounds = ENUMS[name]
    kernel = {value["name"]: value["val"] for value in _named(types, "ENUM", name)["values"]}
    ours = {prefix + key: member.value for key, member in mirror.__members__.items()}  # equal ones, too
    assert ours | bounds == kernel


def test_no_enum_is_forgotten(types: dict[int, dict[str, Any]]) -> None:
    """Whoever adds an enum to the header adds it here."""
    assert {entry["name"] for entry in types.values() if entry["kind"] == "ENUM"} == set(ENUMS)


def test_traffic_cells_do_not_overlap() -> None:
    """Every combination has a cell of its own, and the map has no other. That the kernel side uses the same
    formula shows in test_egress.py, where traffic lands in the cells that are expected."""
    axes = (range(events.ROLES_MAX), events.Direction, events.Family, events.Protocol, events.Verdict)
    keys = [events.TrafficKey(*axis) for axis in itertools.product(*axes)]  # type: ignore[arg-type]
    assert [events.traffic_index(key) for key in keys] == list(range(events.TRAFFIC_MAX))
