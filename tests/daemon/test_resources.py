# SPDX-License-Identifier: Apache-2.0
"""What the roles of a real daemon used: every one of them touched memory, and metrics and status agree."""

from __future__ import annotations

import pytest

from daemon.rig import Daemon, until
from homebound.metrics import ON_DISK, STARTED

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


def test_every_role_used_something(daemon: Daemon) -> None:
    daemon.start()
    status = daemon.wait_ready()
    named = [program for program in status["programs"] if program["name"].startswith("hb_thread_")]
    assert [program["attached"] for program in named] == [True] * 3
    waited = "homebound_run_queue_seconds_total role={}"

    def all_have_some() -> bool:
        found = daemon.metrics()
        return all(found[waited.format(role)] > 0 for role in STARTED)

    until("waits of every role", all_have_some, seconds=12.0)
    before = daemon.status()
    found = daemon.metrics()
    after = daemon.status()
    assert before is not None
    assert after is not None
    for role in STARTED:
        least, most = (said["roles"][role]["resources"] for said in (before, after))
        told = [
            (waited.format(role), "run_queue_ns", 1e9),
            (f"homebound_page_faults_total kind=major role={role}", "major_faults", 1),
        ]
        if role in ON_DISK:
            told.append((f"homebound_block_bytes_total direction=write role={role}", "write_bytes", 1))
        if role == "trainer":
            told.append((f"homebound_page_faults_total kind=minor role={role}", "minor_faults", 1))
        for metric, key, unit in told:
            assert least[key] / unit <= found[metric] <= most[key] / unit, metric
    assert found["homebound_kernel_feature feature=sched_info"] == 1
    assert found["homebound_bpf_program_attached need=wanted program=hb_thread"] == 1
    assert found["homebound_page_faults_total kind=minor role=trainer"] > 0
    assert after["roles"]["supervisor"]["resources"]["minor_faults"] > 0
    daemon.stop()


def test_each_program_that_is_attached_has_its_runs_and_their_time(daemon: Daemon) -> None:
    """One by one, also where what is attached is told together; none for what is switched off."""
    daemon.start()
    programs = daemon.wait_ready()["programs"]
    there = {program["name"] for program in programs if program["attached"]}
    assert {"hb_syscall_exit", "hb_egress", "hb_process_fork"} < there
    assert "hb_files" not in there
    kinds = ("runs", "run_seconds")

    def shown() -> list[set[str]]:
        page = daemon.metrics()
        heads = [f"homebound_bpf_program_{kind}_total program=" for kind in kinds]
        return [{name.removeprefix(head) for name in page if name.startswith(head)} for head in heads]

    until("the figures of each program", lambda: shown() == [there, there], seconds=12.0)

    def all_ran() -> bool:
        page = daemon.metrics()
        names = ("hb_syscall_exit", "hb_egress", "hb_process_fork")
        return all(
            page[f"homebound_bpf_program_{kind}_total program={name}"] > 0 for kind in kinds for name in names
        )

    until("some runs", all_ran, seconds=12.0)
    daemon.stop()
