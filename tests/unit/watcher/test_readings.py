# SPDX-License-Identifier: Apache-2.0
"""readings.py: maps and cgroup files as metric values; unknown is left out, never 0."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from homebound.events import ACTIVITY, Direction, Family, Program, Protocol, Role, Rule, TrafficKey, Verdict
from homebound.kernel import lsm
from homebound.kernel.usage import OpenFiles
from homebound.metrics import BY_NAME, PROGRAMS, program_group
from homebound.watcher import readings
from unit.watcher.rig import MemoryCounters, tx


def test_transmit_is_the_sum_over_families_and_protocols() -> None:
    counters = MemoryCounters()
    counters.add(tx(Role.GATEWAY), 100, 60)
    counters.add(tx(Role.GATEWAY, family=Family.IPV6), 23, 3)
    counters.add(TrafficKey(Role.GATEWAY, Direction.TRANSMIT, Family.IPV4, Protocol.UDP, Verdict.ALLOWED), 7)
    counters.add(
        TrafficKey(Role.GATEWAY, Direction.RECEIVE, Family.IPV4, Protocol.TCP, Verdict.ALLOWED), 1000
    )
    counters.add(tx(Role.TRAINER, Verdict.DENIED), 50)
    found = readings.of_traffic(counters.traffic(), "enforce")
    assert found["homebound_transmit_bytes_total"][("gateway",)] == 130
    assert found["homebound_receive_bytes_total"][("gateway",)] == 1000
    assert found["homebound_transmit_bytes_total"][("trainer",)] == 0
    assert readings.stream_bytes(counters.traffic(), Role.GATEWAY, "enforce") == 63


def test_in_observe_mode_denied_bytes_left_all_the_same() -> None:
    counters = MemoryCounters()
    counters.add(tx(Role.TRAINER, Verdict.DENIED), 50, 10)
    found = readings.of_traffic(counters.traffic(), "observe")
    assert found["homebound_transmit_bytes_total"][("trainer",)] == 50
    assert readings.stream_bytes(counters.traffic(), Role.TRAINER, "observe") == 10


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_readings_are_declared_metrics_with_declared_labels(mode: str) -> None:
    counters = MemoryCounters()
    counters.deny(Role.TRAINER, Rule.IO_URING, 23)
    for found in (
        readings.of_traffic(counters.traffic(), mode),
        readings.of_denied(counters.denied()),
        readings.of_programs(counters.programs(), {}),
    ):
        for name, values in found.items():
            for labels, value in values.items():
                assert labels in BY_NAME[name].values or value == 0, (name, labels)
    assert readings.of_denied(counters.denied())["homebound_denied_total"]["io_uring",] == 23


def test_programs_before_the_first_word_are_unknown_and_not_detached() -> None:
    counts = MemoryCounters().programs()
    found = readings.of_programs(counts, {})
    values = BY_NAME["homebound_bpf_program_attached"].values
    assert {name for name, _ in values} == {program_group(name) for name in PROGRAMS}
    assert found["homebound_bpf_program_attached"] == dict.fromkeys(values, None)
    assert found["homebound_events_lost_total"] == {
        ("refusals",): 3 * (len(Program) - len(ACTIVITY)),
        ("activity",): 3 * len(ACTIVITY),
    }
    assert found["homebound_bpf_failed_lookups_total"] == {(): 2 * len(Program)}


def attached(*report: object) -> Mapping[tuple[str, ...], float | None]:
    found = readings.of_programs(MemoryCounters().programs(), readings.programs_from_report(list(report)))
    return found["homebound_bpf_program_attached"]


def said(name: str, here: bool, need: str = "wanted") -> dict[str, object]:
    return {"name": name, "need": need, "attached": here, "runs": 2, "run_seconds": 0.25}


def test_programs_on_security_hooks_are_attached_when_all_are() -> None:
    names = [program.bpf_name for program in lsm.PROGRAMS]
    assert attached(*(said(name, True) for name in names))["hb_lsm", "wanted"] == 1.0
    assert attached(*(said(name, name != names[3]) for name in names))["hb_lsm", "wanted"] == 0.0


def test_programs_of_the_supervisor() -> None:
    """Each has its own cost; whether it is attached is told by group."""
    reported = readings.programs_from_report(
        [
            {"name": "hb_syscall_exit", "attached": True, "runs": 23, "run_seconds": 0.5},
            {"name": "hb_egress", "attached": True, "runs": 5, "run_seconds": 0.25},
            {"name": "hb_ingress", "attached": False, "runs": -1},
            {"name": "made_up", "attached": True},
            {"name": ["hb_egress"], "attached": True},
            "junk",
        ]
    )
    found = readings.of_programs(MemoryCounters().programs(), reported)
    assert found["homebound_bpf_program_attached"]["hb_syscall_exit", "required"] == 1.0
    assert found["homebound_bpf_program_attached"]["hb_cgroup", "required"] == 0.0
    runs, seconds = (found[f"homebound_bpf_program_{name}_total"] for name in ("runs", "run_seconds"))
    assert (runs["hb_syscall_exit",], seconds["hb_syscall_exit",]) == (23, 0.5)
    assert (runs["hb_egress",], seconds["hb_egress",]) == (5, 0.25)
    assert (runs["hb_ingress",], seconds["hb_ingress",]) == (None, None)
    assert runs.keys() == seconds.keys() == {(program.bpf_name,) for program in Program}
    assert readings.programs_from_report(None) == {}


def test_programs_that_are_switched_off_say_nothing() -> None:
    """Neither for their group nor against it, and no 0 as if they had not run."""
    on, off = said("hb_lsm_open", True), said("hb_lsm_bpf", False, need="off")
    for report in ([on, off], [off, on]):
        assert attached(*report)["hb_lsm", "wanted"] == 1.0
    assert attached(off)["hb_lsm", "wanted"] is None
    found = readings.of_programs(MemoryCounters().programs(), readings.programs_from_report([on, off]))
    assert found["homebound_bpf_program_runs_total"]["hb_lsm_open",] == 2
    assert found["homebound_bpf_program_runs_total"]["hb_lsm_bpf",] is None


def test_usage_takes_the_cgroup_first_and_the_supervisor_where_it_is_blind(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\n")
    (tmp_path / "cpu.pressure").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n")
    fds = {name: os.open(tmp_path / name, os.O_RDONLY) for name in ("cpu.stat", "cpu.pressure")}
    said = {"cpu_seconds": 99.0, "memory_bytes": 1024}
    try:
        cgroups = {"trainer": OpenFiles(fds), "guard": OpenFiles({})}
        found = readings.of_usage(cgroups, {"trainer": readings.usage_from_report(said)})
    finally:
        for fd in fds.values():
            os.close(fd)
    assert found["homebound_cpu_seconds_total"] == {("trainer",): 2.5, ("guard",): None}
    assert found["homebound_memory_bytes"] == {("trainer",): 1024, ("guard",): None}
    assert found["homebound_pressure_stalled_seconds_total"]["trainer", "cpu"] == 1.5
    assert found["homebound_pressure_stalled_seconds_total"]["trainer", "io"] is None


@pytest.mark.parametrize("junk", [None, 5, {}, {"cpu_seconds": "1", "memory_bytes": -1}])
def test_a_usage_report_that_makes_no_sense_is_unknown(junk: object) -> None:
    assert readings.usage_from_report(junk) == readings.Figures(None, None, {})
