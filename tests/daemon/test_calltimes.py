# SPDX-License-Identifier: Apache-2.0
"""How long a real trainer's system calls take: told by class, with metrics and status of one mind. Unless the
setting is on nobody looks."""

from __future__ import annotations

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
NAMES = ("hb_call_enter", "hb_call_exit")


def timed(daemon: Daemon) -> dict[str, float]:
    name = "homebound_trainer_call_seconds_"
    return {key.removeprefix(name): n for key, n in daemon.metrics().items() if key.startswith(name)}


def test_a_trainers_calls_are_timed(daemon: Daemon, federation: Federation) -> None:
    daemon.config["kernel"] = {"time_calls": True}
    daemon.start()
    status = daemon.wait_ready()
    states = {program["name"]: program for program in status["programs"]}
    assert [(states[name]["attached"], states[name]["need"]) for name in NAMES] == [(True, "wanted")] * 2
    assert federation.reply(federation.send(daemon.node, "hangs", 0.0))["outcome"] == "update"
    before, found, after = daemon.status(), timed(daemon), daemon.status()
    print({key: value for key, value in found.items() if "le=" not in key})
    assert before is not None
    assert after is not None
    least, most = (sum(said["call_times"]["file"]["slots"]) for said in (before, after))
    assert 0 < least <= found["count class=file"] <= most
    for name in ("file", "other"):
        assert found[f"bucket class={name} le=+Inf"] == found[f"count class={name}"] > 0
        assert found[f"sum class={name}"] > 0
    assert daemon.metrics()["homebound_bpf_program_attached need=wanted program=hb_call"] == 1
    daemon.stop()


def test_nobody_looks_unless_asked(daemon: Daemon) -> None:
    """The twin."""
    daemon.start()
    status = daemon.wait_ready()
    states = {program["name"]: program for program in status["programs"]}
    assert [(states[name]["attached"], states[name]["need"]) for name in NAMES] == [(False, "off")] * 2
    assert timed(daemon) == {}
    assert status["call_times"] == {}
    daemon.stop()
