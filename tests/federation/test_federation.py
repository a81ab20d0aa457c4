# SPDX-License-Identifier: Apache-2.0
"""The gateway process against a real SuperLink: whole runs, refused apps, lost links, crashes.

The guard is ours and answers with the model plus a hundredth; nobody trains here.
"""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from federation.device import Device, Task, echo, summary
from federation.peer import LOOPBACK, Relay
from homebound.demo.superlink import App, Operator, SuperLink, bundle, free_port, make_superlink
from homebound.gateway.federation import KINDS
from homebound.gateway.messages import NO_UPDATE, NOT_APPROVED
from homebound.records import Records, RefusalCode

# Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

DIGITS = ROOT / "examples" / "digits"
RUN_SECONDS = 60.0
ONE_ROUND = {"min-nodes": 1, "num-server-rounds": 1, "fraction-evaluate": 0.0}


@pytest.fixture(scope="module")
def app() -> App:
    return bundle(DIGITS)


@pytest.fixture
def stopped(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SuperLink]:
    """A SuperLink that is not started yet. It is stopped with everything that it started."""
    link = make_superlink(tmp_path / "superlink", tls=getattr(request, "param", "") == "tls")
    yield link
    link.stop()
    assert list(link.pids()) == []


@pytest.fixture
def superlink(stopped: SuperLink) -> SuperLink:
    """A SuperLink that runs; without TLS unless asked for."""
    stopped.start()
    return stopped


@pytest.fixture
def operator(superlink: SuperLink) -> Iterator[Operator]:
    one = Operator(superlink)
    yield one
    one.close()


def settings(link: SuperLink, app: App, port: int = 0) -> dict[str, Any]:
    """The gateway's settings for a SuperLink, behind a relay on ``port`` if that is given."""
    port = port or link.port
    root = link.root_certificates
    section = {
        "address": f"{LOOPBACK}:{port}",
        "insecure": root is None,
        "root_certificates": "" if root is None else str(root),
        "retry_max_seconds": 1.0,
    }
    return {"federation": section, "dial": LOOPBACK, "port": port, "app": {"fab_sha256": app.fab_sha256}}


class Gate:
    """A guard that keeps a task until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, task: Task, records: Records) -> Records:
        self.entered.set()
        self.open.wait(60)
        return echo(task, records)


@pytest.mark.parametrize("stopped", ["tls"], indirect=True)
def test_two_devices_three_rounds(tmp_path: Path, app: App, superlink: SuperLink, operator: Operator) -> None:
    """A whole run; every byte that a relay saw was declared; the model comes back moved as it was sent."""
    link = superlink
    assert link.root_certificates is not None
    relays = [Relay(link.port) for _ in range(2)]
    models: list[list[np.ndarray[Any, Any]]] = []

    def watch(task: Task, records: Records) -> Records:
        if task["message_type"] == "train":
            models.append([np.array(value) for value in records[0].values])
        return echo(task, records)

    devices = []
    for number, relay in enumerate(relays):
        relay.open()
        proxies = {"HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
        devices.append(
            Device(
                tmp_path / f"device-{number}",
                settings(link, app, relay.port),
                watch if number == 0 else echo,
                proxies,
            )
        )
    for device in devices:
        device.start()
    for device in devices:
        device.wait_for("connected")
    results = tmp_path / "results.jsonl"
    began = time.monotonic()
    run = operator.start(app, {"results": str(results)})
    state = operator.wait(run, RUN_SECONDS)
    print(f"three rounds took {time.monotonic() - began:.1f} s from start to end of the run")
    assert (state.status, state.outcome) == ("finished", "completed"), state
    assert operator.fab_sha256(run) == app.fab_sha256
    assert [json.loads(line)["round"] for line in results.read_text().splitlines()] == [0, 1, 2, 3]
    assert [device.stop() for device in devices] == [0, 0]
    for device, relay in zip(devices, relays, strict=True):
        assert device.declared() == relay.total > 0
        assert {m["request"] for m in device.of_type("declare")} <= set(KINDS.values())
        assert device.of_type("unsent") == []
        assert [(t["message_type"], t["round"]) for t in device.tasks] == [
            (kind, number) for number in (1, 2, 3) for kind in ("train", "evaluate")
        ]
        assert device.tasks[0]["run_config"]["results"] == str(results)
        tasks = [task["task"] for task in device.tasks]
        assert [m["task"] for m in device.of_type("acknowledged")] == tasks
        pushes = [m for m in device.of_type("declare") if m["request"].startswith("push")]
        assert {m["task"] for m in pushes} == set(tasks)
        # None for each request; a server that closes one which rests costs another.
        assert relay.connections <= 3 < len(device.of_type("declare"))
        assert list((device.state / "outbox").iterdir()) == []
        print(f"declared {device.declared()} = relayed {relay.total}")
    for before, after in itertools.pairwise(models):
        for was, now in zip(before, after, strict=True):
            np.testing.assert_allclose(now, was + 0.01, atol=1e-6)
    for relay in relays:
        relay.cut()


def test_other_app_is_refused_and_never_fetched(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> None:
    other = {**settings(superlink, app), "app": {"fab_sha256": "0" * 64}}
    device = Device(tmp_path / "device", other)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert operator.wait(run, RUN_SECONDS).finished
    refused = device.wait_for("refused")
    assert device.stop() == 0
    assert [message["code"] for message in refused] == ["not_approved"]
    assert device.tasks == []
    # On a machine that is busy otherwise it lasts long enough for a heartbeat.
    requests = {m["request"] for m in device.of_type("declare")} - {"heartbeat"}
    assert requests == {"register", "activate", "pull", "get_run", "push", "push_object", "deactivate"}
    assert NOT_APPROVED in operator.log(run)


def test_refusal_tells_nothing(tmp_path: Path, app: App, superlink: SuperLink, operator: Operator) -> None:
    device = Device(tmp_path / "device", settings(superlink, app), lambda *_: RefusalCode.NOT_FINITE)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert operator.wait(run, RUN_SECONDS).finished
    assert [m["released"] for m in device.wait_for("acknowledged")] == [False]
    assert device.stop() == 0
    log = operator.log(run)
    assert NO_UPDATE in log
    assert "not_finite" not in log


def cut_in_mid_round(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> tuple[Device, Relay, int]:
    """A device whose link went while it trained, with its update in the outbox; the link; the run."""
    relay, gate = Relay(superlink.port), Gate()
    relay.open()
    device = Device(tmp_path / "device", settings(superlink, app, relay.port), gate)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert gate.entered.wait(RUN_SECONDS)
    relay.cut()
    gate.open.set()
    deadline = time.monotonic() + 10
    while not list((device.state / "outbox").glob("*.reply")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return device, relay, run


def test_link_lost_in_mid_round_and_back(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> None:
    device, relay, run = cut_in_mid_round(tmp_path, app, superlink, operator)
    device.wait_for("disconnected")
    relay.open()
    state = operator.wait(run, RUN_SECONDS)
    assert state.outcome == "completed", state
    assert [m["released"] for m in device.wait_for("acknowledged")] == [True]
    assert device.stop() == 0
    reasons = {m["reason"] for m in device.of_type("disconnected")}
    assert reasons <= {"gone", "unreachable"}
    assert len(device.of_type("connected")) == 2
    assert device.declared() == relay.total
    relay.cut()


def test_superlink_killed_in_mid_round_and_started_again(
    tmp_path: Path, app: App, superlink: SuperLink
) -> None:
    """It has forgotten device and run; the device joins again by itself and the next run goes through."""
    gate = Gate()
    operator = Operator(superlink)
    device = Device(tmp_path / "device", settings(superlink, app), gate)
    device.start()
    device.wait_for("connected")
    operator.start(app, ONE_ROUND)
    assert gate.entered.wait(RUN_SECONDS)
    operator.close()
    superlink.kill()
    device.wait_for("disconnected")
    superlink.start()
    device.wait_for("connected", 2)
    gate.open.set()
    device.wait_for("dropped")
    operator = Operator(superlink)
    state = operator.wait(operator.start(app, ONE_ROUND), RUN_SECONDS)
    assert state.outcome == "completed", state
    assert device.stop() == 0
    first, second = (m["node"] for m in device.of_type("connected"))
    assert first != second
    assert [m["reason"] for m in device.of_type("dropped")] == ["forgotten"]
    operator.close()


def test_device_before_superlink(tmp_path: Path, app: App, stopped: SuperLink) -> None:
    """Nobody answers: a reason and a hint, tried again with pauses, until somebody does."""
    device = Device(tmp_path / "device", settings(stopped, app))
    device.start()
    tries = device.wait_for("disconnected", 3)
    assert {m["reason"] for m in tries} == {"unreachable"}
    assert "federation.address" in tries[0]["hint"]
    assert device.of_type("declare") == []
    stopped.start()
    device.wait_for("connected")
    assert device.stop() == 0


def test_killed_gateway_goes_on_and_answers(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> None:
    """No wait for the old session to end, and the federation does not wait for a task that was lost."""
    gate = Gate()
    device = Device(tmp_path / "device", settings(superlink, app), gate)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert gate.entered.wait(RUN_SECONDS)
    gate.open.set()
    device.kill()
    again = Device(tmp_path / "device", settings(superlink, app))
    again.start()
    connected = again.wait_for("connected")
    assert connected[0]["node"] == device.of_type("connected")[0]["node"]
    state = operator.wait(run, RUN_SECONDS)
    assert state.finished, state
    assert [m["released"] for m in again.wait_for("acknowledged")] == [False]
    assert again.stop() == 0


def test_update_survives_the_gateway(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> None:
    """Released while the link was away, gateway killed: the update is sent after the restart."""
    device, relay, run = cut_in_mid_round(tmp_path, app, superlink, operator)
    device.kill()
    relay.open()
    again = Device(tmp_path / "device", settings(superlink, app, relay.port))
    again.start()
    state = operator.wait(run, RUN_SECONDS)
    assert state.outcome == "completed", state
    assert [m["released"] for m in again.wait_for("acknowledged")] == [True]
    assert again.stop() == 0
    assert again.tasks == []
    relay.cut()


def test_stopped_run(tmp_path: Path, app: App, superlink: SuperLink, operator: Operator) -> None:
    """An update for a run that was stopped is dropped with a reason, and the device takes the next run."""
    gate = Gate()
    device = Device(tmp_path / "device", settings(superlink, app), gate)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert gate.entered.wait(RUN_SECONDS)
    operator.stop(run)
    gate.open.set()
    assert [m["reason"] for m in device.wait_for("dropped")] == ["run_over"]
    assert list((device.state / "outbox").iterdir()) == []
    state = operator.wait(operator.start(app, ONE_ROUND), RUN_SECONDS)
    assert state.outcome == "completed", state
    assert len(device.wait_for("acknowledged")) == 1
    assert device.stop() == 0
    assert len(device.of_type("connected")) == 1, summary(device.told)


@pytest.mark.slow
def test_run_stopped_during_training_is_noticed(
    tmp_path: Path, app: App, superlink: SuperLink, operator: Operator
) -> None:
    gate = Gate()
    device = Device(tmp_path / "device", settings(superlink, app), gate)
    device.start()
    device.wait_for("connected")
    run = operator.start(app, ONE_ROUND)
    assert gate.entered.wait(RUN_SECONDS)
    operator.stop(run)
    assert [m["reason"] for m in device.wait_for("dropped")] == ["run_over"]
    assert not gate.open.is_set()
    gate.open.set()
    assert device.stop() == 0


def test_stop_does_not_wait_for_a_superlink_that_hangs(
    tmp_path: Path, app: App, superlink: SuperLink
) -> None:
    device = Device(tmp_path / "device", settings(superlink, app))
    device.start()
    device.wait_for("connected")
    assert superlink.process is not None
    superlink.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    began = time.monotonic()
    try:
        assert device.stop() == 0
    finally:
        superlink.process.send_signal(signal.SIGCONT)
    print(f"stopped after {time.monotonic() - began:.2f} s")


def test_supervisor_gone_ends_the_gateway(tmp_path: Path, app: App) -> None:
    """Nothing can be declared any more, so nothing is sent any more."""
    port = free_port()
    link = SuperLink(tmp_path, port, None)
    device = Device(tmp_path / "device", settings(link, app))
    device.start()
    device.wait_for("ready")
    assert device.orphan() == 1


def test_settings_that_cannot_be_used(tmp_path: Path, app: App, capfd: pytest.CaptureFixture[str]) -> None:
    link = SuperLink(tmp_path, free_port(), None)
    for change, status, words in (
        ({"node_key": str(tmp_path / "missing.pem")}, 78, "federation.node_key cannot be read"),
        ({"insecure": False, "root_certificates": "/missing.pem"}, 69, "root_certificates cannot be read"),
    ):
        document = settings(link, app)
        document["federation"] |= change
        device = Device(tmp_path / "device", document)
        device.start()
        assert device.ended() == status
        error = capfd.readouterr().err
        assert words in error
        assert error.count("\n") == 1
