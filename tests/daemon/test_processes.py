# SPDX-License-Identifier: Apache-2.0
"""A process that root takes out of its role's cgroup ends training until the daemon is started again."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from daemon.rig import Daemon, until
from homebound.kernel import cgroups

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


def test_a_trainer_that_is_moved_out(daemon: Daemon) -> None:
    daemon.start()
    status = daemon.wait_ready()
    assert status["violations"] == [], "the start's own moves are none"
    assert status["roles"]["trainer"]["processes"]["forks"] > 0
    pid = daemon.pid("trainer")
    try:
        (cgroups.mount() / "cgroup.procs").write_text(str(pid))
        status = daemon.wait("the violation", lambda s: s["violations"] != [])
        (violation,) = status["violations"]
        assert (violation["rule"], violation["role"], violation["count"]) == ("cgroup", "trainer", 1)
        daemon.wait("the end of training", lambda s: s["state"] == "failed")
        assert daemon.metrics()["homebound_violations_total role=trainer rule=cgroup"] == 1
        until("the metric", lambda: daemon.metrics()["homebound_training_stopped"] == 1)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    daemon.stop()
