# SPDX-License-Identifier: Apache-2.0
"""A changed configuration, read anew by the running daemon: what it changes is seen where it is shown."""

from __future__ import annotations

import signal

import pytest

from daemon.rig import Daemon, document, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
METRIC = "homebound_canary_interval_seconds"


def test_the_canarys_interval_is_a_metric_that_follows(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_ready()
    assert daemon.metrics()[METRIC] == 300
    daemon.config["canary"] = {"interval_seconds": 7.0}
    (daemon.folder / "homebound.toml").write_text(document(daemon.config))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    until("the new interval", lambda: daemon.metrics()[METRIC] == 7, 30.0)
    assert daemon.stop().status == 0
