# SPDX-License-Identifier: Apache-2.0
"""The second meter of a real daemon, in a network namespace with links of its own: status, metrics, end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from daemon.rig import Daemon, Document

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

LINKS = 'ip link set lo up && ip link add hb-a type veth peer name hb-b && exec "$@"'
READ = "import urllib.request as r, sys; print(r.urlopen(sys.argv[1]).read().decode())"


def beside(daemon: Daemon, *words: str) -> str:
    """Run a command in the daemon's network."""
    assert daemon.process is not None
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{daemon.process.pid}/ns/net", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def metered(document: Document) -> list[str]:
    return sorted(link["name"] for link in document["uplinks"]["links"] if link["attached"])


def test_status_metrics_and_end(daemon: Daemon) -> None:
    daemon.config["kernel"] = {"uplink_meter": True}
    daemon.start(("unshare", "--net", "sh", "-c", LINKS, "sh"))
    found = daemon.wait("the meter", lambda s: metered(s) == ["hb-a", "hb-b"])
    assert found["uplinks"]["trouble"] == ""
    assert found["uplinks"]["roles"]["trainer"] == {"bytes": 0, "difference": 0}
    beside(daemon, "ip", "link", "add", "hb-c", "type", "veth", "peer", "name", "hb-d")
    found = daemon.wait("the new links", lambda s: metered(s) == ["hb-a", "hb-b", "hb-c", "hb-d"])
    program = next(entry for entry in found["programs"] if entry["name"] == "hb_uplink")
    assert (program["attached"], program["need"]) == (True, "wanted")
    url = f"http://127.0.0.1:{daemon.config['metrics']['port']}/metrics"

    def page() -> str:
        return beside(daemon, sys.executable, "-c", READ, url)

    daemon.wait("the metric", lambda _: "homebound_uplinks_unmetered 0.0" in page())
    assert 'homebound_uplink_bytes_total{role="trainer"} 0.0' in page()
    assert daemon.process is not None
    with open(f"/proc/{daemon.process.pid}/ns/net", "rb") as network:
        assert daemon.stop().status == 0
        words = ["nsenter", f"--net=/proc/self/fd/{network.fileno()}", "tc", "qdisc", "show"]
        left = subprocess.run(
            words, pass_fds=[network.fileno()], capture_output=True, text=True, check=True
        ).stdout
    assert "clsact" not in left
