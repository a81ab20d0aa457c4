# SPDX-License-Identifier: Apache-2.0
"""From the kernel to the person who is woken: real devices, Prometheus, Alertmanager, a webhook.

Three devices in one federation: one whose app tries to get out, one whose watcher is killed while nobody can
start it again, one in mode observe with its privacy budget spent. Rules and routes are the shipped ones.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import ROOT
from daemon.conftest import install
from daemon.federation import Federation, make_federation
from daemon.rig import Daemon
from dashboards import lint
from dashboards.stack import Prometheus, Receiver, running
from dashboards.test_dashboards import load
from homebound.watcher import page

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
# From what happened to the person who is woken; evaluations and scrapes are every second here.
SOON = 30.0
PROBES = ROOT / "examples/probes"
ATTEMPTS = 23
# The app of the federation's tests says this of its data in its own log.
RAW = "4711"
# One segment on loopback: the server hangs up on what is no TLS, and later bytes would not be sent.
UNDECLARED_BYTES = 23_000
# The ring buffer holds some 2,500 events.
FLOOD = 10_007
# Of the default noise one release fits, which costs 92; two do not.
ONE_RELEASE = 100.0


@dataclass(frozen=True)
class Stage:
    """All that stands while the tests of this file run."""

    federation: Federation
    leaky: Daemon
    blind: Daemon
    observing: Daemon
    prometheus: Prometheus
    receiver: Receiver
    blinded: float


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    federation = make_federation(tmp_path_factory.mktemp("federation"))
    folders = [tmp_path_factory.mktemp("device") for _ in range(3)]
    devices = [install(folder, 40 + number, federation) for number, folder in enumerate(folders)]
    leaky, blind, observing = devices
    leaky.config["canary"] = {"interval_seconds": 30.0}
    observing.config["mode"] = "observe"
    observing.config["count_calls"] = True  # else a panel of it has nothing to show
    observing.config["kernel"] = {"count_opens": True, "time_calls": True}  # likewise
    observing.config["paths"]["probes"] = str(PROBES)  # likewise
    observing.config["guard"] |= {"epsilon_limit": ONE_RELEASE}
    blind.config["trainer"] |= {"warm": False}
    receiver = Receiver()
    ports = {device.name: device.config["metrics"]["port"] for device in devices}
    try:
        federation.start()
        for device in devices:
            device.start()
        with running(tmp_path_factory.mktemp("prometheus"), ports, receiver) as prometheus:
            for device in devices:
                device.wait("connected", lambda s: bool(s["federation"]["connected"]))
            wait_seen(prometheus, len(devices))
            outcomes = [federation.ask(observing.node)["outcome"] for _ in range(2)]
            assert outcomes == ["update", "error"]  # the second is beyond its budget
            began = take_sight(blind)
            yield Stage(federation, leaky, blind, observing, prometheus, receiver, began)
    finally:
        for device in devices:
            give_sight(device)
            device.clear()
        federation.stop()
        print("\n".join(line for device in devices for line in device.lines()))
    assert [leftover for device in devices for leftover in device.leftovers()] == []


def wait_seen(prometheus: Prometheus, count: int) -> None:
    """Wait until all targets are scraped and the supervisor's first words came through."""
    deadline = time.monotonic() + 30
    while prometheus.values("sum(homebound_canary_timestamp_seconds > bool 0)").get("") != count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def take_sight(device: Daemon) -> float:
    """Kill the watcher while the supervisor cannot start another one."""
    assert device.process is not None
    pid = device.pid("watcher")
    device.process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def give_sight(device: Daemon) -> None:
    if device.process is not None:
        device.process.send_signal(signal.SIGCONT)


def told(stage: Stage, device: Daemon, alert: str, seconds: float, **labels: str) -> dict[str, Any]:
    """The alert at the webhook, with everything that a person needs and nothing of the data."""
    began = time.monotonic()
    found = stage.receiver.wait(seconds, alertname=alert, instance=device.name, **labels)
    print(f"{alert}: {time.monotonic() - began:.1f} s")
    assert found["annotations"]["runbook_url"].endswith(f"#{alert.lower()}")
    assert device.name in found["annotations"]["description"]
    assert found["annotations"]["dashboard_url"].endswith((f"instance={device.name}", "homebound-fleet"))
    assert not any(RAW in text for text in stage.receiver.texts)
    return found


def test_a_live_scrape_is_well_formed_and_small(stage: Stage) -> None:
    url = f"http://127.0.0.1:{stage.leaky.config['metrics']['port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        page = answer.read().decode()
    promtool = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True)
    assert (promtool.returncode, promtool.stderr) == (0, "")
    series = [line for line in page.splitlines() if line.startswith("homebound_")]
    print(f"{len(series)} series")
    assert 200 < len(series) < 300


def test_an_honest_device_is_silent(stage: Stage) -> None:
    for _ in range(2):
        assert stage.federation.ask(stage.leaky.node)["outcome"] == "update"
    time.sleep(3)  # three evaluations
    firing = {(labels["alertname"], labels["instance"]) for labels in stage.prometheus.firing()}
    assert {name for name, instance in firing if instance == stage.leaky.name} == set()
    assert ("HomeboundObserveOnly", stage.observing.name) in firing  # the control: something can fire


def test_a_leaky_app_wakes_somebody(stage: Stage) -> None:
    stage.federation.ask(stage.leaky.node, "fails")  # it says something of its data, on the device
    stage.federation.ask(stage.leaky.node, "connects", ATTEMPTS)
    alert = told(stage, stage.leaky, "HomeboundRawDataEgress", SOON)
    assert alert["labels"]["rule"] == "socket_stream"
    assert alert["labels"]["severity"] == "critical"
    seen = stage.prometheus.values(
        f'homebound_violations_total{{instance="{stage.leaky.name}", role="trainer", rule="socket_stream"}}'
    )
    assert list(seen.values()) == [ATTEMPTS]
    sent = stage.prometheus.values(
        f'homebound_transmit_bytes_total{{instance="{stage.leaky.name}", role="trainer"}}'
    )
    assert list(sent.values()) == [0]


def test_the_page_of_the_device_says_it_too(stage: Stage) -> None:
    url = f"http://127.0.0.1:{stage.leaky.config['metrics']['port']}/"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    assert f"{ATTEMPTS} violations since" in text
    # The other attempts among the last are of the app's start.
    assert text.count("<td>socket_stream</td>") >= page.ATTEMPTS // 2
    assert RAW not in text


def enter(device: Daemon, role: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a role's cgroup, as only root can: somebody took the role over."""
    procs = device.cgroup / role / "cgroup.procs"
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=60,
        preexec_fn=lambda: procs.write_text("0"),
    )  # fmt: skip


SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(bytes(int(sys.argv[3])))
"""
KNOCK = """
import socket, sys
refused = 0
for _ in range(int(sys.argv[1])):
    try:
        socket.socket().close()
    except OSError:
        refused += 1
print(refused)
"""


def test_bytes_that_nobody_declared(stage: Stage) -> None:
    """The one way out that is open, used by somebody who is not the gateway."""
    host, _, port = stage.federation.link.address.rpartition(":")
    enter(stage.leaky, "gateway", SEND, host, port, str(UNDECLARED_BYTES))
    alert = told(stage, stage.leaky, "HomeboundUnaccountedBytes", SOON)
    assert alert["labels"]["severity"] == "critical"
    counted = stage.prometheus.values(
        f'homebound_transmit_unaccounted_bytes_total{{instance="{stage.leaky.name}"}}'
    )
    # The watcher asks for all that was declared before it read the count. A request that was declared and not
    # sent yet at that moment hides its bytes until a later look, so the figure may come in two steps.
    assert UNDECLARED_BYTES / 2 < next(iter(counted.values())) <= UNDECLARED_BYTES
    stage.leaky.wait("the books", lambda s: bool(s["unaccounted_bytes"] == UNDECLARED_BYTES))


def test_a_flood_loses_events_and_no_count(stage: Stage) -> None:
    labels = f'instance="{stage.leaky.name}", role="trainer", rule="sock_create"'
    watcher = stage.leaky.pid("watcher")
    os.kill(watcher, signal.SIGSTOP)  # it gets no processor time; in 4 s it would be replaced
    try:
        done = enter(stage.leaky, "trainer", KNOCK, str(FLOOD))
    finally:
        os.kill(watcher, signal.SIGCONT)
    assert int(done.stdout) == FLOOD
    alert = told(stage, stage.leaky, "HomeboundEventsLost", SOON)
    assert alert["labels"]["severity"] == "warning"
    assert list(stage.prometheus.values(f"homebound_violations_total{{{labels}}}").values()) == [FLOOD]


def test_a_spent_budget(stage: Stage) -> None:
    alert = told(stage, stage.observing, "HomeboundBudgetSpent", SOON)
    assert alert["labels"]["severity"] == "warning"


def test_the_watcher_may_read_maps(stage: Stage) -> None:
    """Where every call is looked at, too: that is no attempt."""
    tried = f'homebound_violations_total{{instance="{stage.observing.name}", role="watcher"}}'
    assert set(stage.prometheus.values(tried).values()) == {0.0}


def test_mode_observe_is_told(stage: Stage) -> None:
    alert = told(stage, stage.observing, "HomeboundObserveOnly", SOON)
    assert alert["labels"]["severity"] == "warning"


@pytest.mark.parametrize("name", ["host", "fleet"])
def test_no_panel_is_empty(stage: Stage, name: str) -> None:
    board = load(name)
    empty = []
    for panel in lint.panels(board):
        for target in panel["targets"]:
            expr = filled(target["expr"], f"{stage.leaky.name}|{stage.observing.name}")
            found = answers(stage.prometheus, expr, panel["type"] == "timeseries")
            if not found or all(math.isnan(value) for value in found):
                empty.append((panel["title"], expr))
    print("\n".join(f"{title}: {expr}" for title, expr in empty))
    assert empty == []


def filled(expr: str, instances: str) -> str:
    words = {
        "$__rate_interval": "30s", "$__range": "3m", "$job": "homebound", "$instance": instances,
    }  # fmt: skip
    for name, value in words.items():
        expr = expr.replace(name, value)
    return expr


def answers(prometheus: Prometheus, expr: str, over_time: bool) -> list[float]:
    """All values: now, or over the last minute."""
    if not over_time:
        return list(prometheus.values(expr).values())
    now = time.time()
    found = prometheus.ask("/api/v1/query_range", query=expr, start=str(now - 60), end=str(now), step="5")
    return [float(value) for entry in found["result"] for _, value in entry["values"]]


def test_an_expression_of_a_missing_metric_is_empty(stage: Stage) -> None:
    """The control of the test above."""
    assert answers(stage.prometheus, "homebound_made_up", True) == []


def test_a_blind_device_wakes_somebody_and_is_seen_again(stage: Stage) -> None:
    alert = told(stage, stage.blind, "HomeboundBlind", SOON)
    arrival = stage.receiver.arrival(alertname="HomeboundBlind", instance=stage.blind.name)
    print(f"from the kill to the webhook: {arrival - stage.blinded:.1f} s")
    assert arrival - stage.blinded < SOON
    assert alert["labels"]["reason"] == "target_down"
    give_sight(stage.blind)
    deadline = time.monotonic() + 20
    while any(labels["alertname"] == "HomeboundBlind" for labels in stage.prometheus.firing()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
