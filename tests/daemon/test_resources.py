# SPDX-License-Identifier: Apache-2.0
"""What the roles of a real daemon used: every one of them touched memory, and metrics and status agree."""

from __future__ import annotations

import pytest

from daemon.rig import Daemon, until
from homebound.metrics import STARTED

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


def test_every_role_used_something(daemon: Daemon) -> None:
    daemon.start()
    status = daemon.wait_ready()
    named = [program for program in status["programs"] if program["name"].startswith("hb_thread_")]
    assert [program["attached"] for program in named] == [True] * 3
    faults = "homebound_page_faults_total kind=minor role={}"

    def all_have_some() -> bool:
        found = daemon.metrics()
        return all(found[faults.format(role)] > 0 for role in STARTED)

    until("faults of every role", all_have_some, seconds=12.0)
    before = daemon.status()
    found = daemon.metrics()
    after = daemon.status()
    assert before is not None
    assert after is not None
    for role in STARTED:
        least, most = (said["roles"][role]["resources"] for said in (before, after))
        for metric, key, unit in (
            (faults.format(role), "minor_faults", 1),
            (f"homebound_run_queue_seconds_total role={role}", "run_queue_ns", 1e9),
            (f"homebound_block_bytes_total direction=write role={role}", "write_bytes", 1),
        ):
            assert least[key] / unit <= found[metric] <= most[key] / unit, metric
    assert found["homebound_kernel_feature feature=sched_info"] == 1
    assert found["homebound_bpf_program_attached need=wanted program=hb_thread"] == 1
    assert after["roles"]["supervisor"]["resources"]["minor_faults"] > 0
    daemon.stop()
