# SPDX-License-Identifier: Apache-2.0
"""Files that a real trainer opens, by what they are to it: it reads its data, the app and the system, and
what it opens lies on its own mounts. Without the setting nobody looks."""

from __future__ import annotations

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


def opened(daemon: Daemon) -> dict[str, float]:
    name = "homebound_trainer_opens_total "
    return {key.removeprefix(name): n for key, n in daemon.metrics().items() if key.startswith(name)}


def test_a_trainer_opens_its_own(daemon: Daemon, federation: Federation) -> None:
    daemon.config["kernel"] = {"count_opens": True}
    daemon.start()
    status = daemon.wait_ready()
    (state,) = (program for program in status["programs"] if program["name"] == "hb_files")
    assert (state["attached"], state["need"]) == (True, "wanted")
    assert federation.reply(federation.send(daemon.node, "hangs", 0.0))["outcome"] == "update"
    found = opened(daemon)
    print(found)
    assert found["area=system mode=read"] > 0
    assert found["area=app mode=read"] > 0
    assert found["area=data mode=read"] > 0
    assert not [key for key in found if key in ("area=data mode=write", "area=app mode=write")]
    assert daemon.metrics()["homebound_events_total kind=file_open"] == sum(
        n for key, n in found.items() if key.startswith("area=other")
    )
    daemon.stop()


def test_nobody_looks_unless_asked(daemon: Daemon) -> None:
    """The twin."""
    daemon.start()
    status = daemon.wait_ready()
    (state,) = (program for program in status["programs"] if program["name"] == "hb_files")
    assert (state["attached"], state["need"]) == (False, "off")
    assert opened(daemon) == {}
    daemon.stop()
