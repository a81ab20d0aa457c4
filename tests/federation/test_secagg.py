# SPDX-License-Identifier: Apache-2.0
"""Five devices add up securely under a real SuperLink, Flower's own server side; one drops out."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from federation.light import LightDevice
from federation.peer import LOOPBACK
from homebound.books import ledger
from homebound.demo.superlink import App, Operator, SuperLink, bundle, make_superlink
from homebound.guard.checks import bucket
from homebound.settings import GuardSettings

pytestmark = [
    pytest.mark.timeout(500),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

FOLDER = ROOT / "examples" / "aggregation"
sys.path.insert(0, str(FOLDER))
task: Any = importlib.import_module("aggregation.task")

DEVICES, RUN_SECONDS = 5, 400.0
STAGES = 4
# Without noise, and with a norm that no honest change reaches, the sum can be foretold.
EXACT = GuardSettings(
    clip_norm=1000.0, noise_multiplier=0.0, quantum_bits=32, epsilon_limit=0.0, run_epsilon_limit=0.0,
    secagg_required=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def app() -> App:
    return bundle(FOLDER)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    link = make_superlink(tmp_path_factory.mktemp("superlink"))
    link.start()
    yield link
    link.stop()
    assert list(link.pids()) == []


@pytest.fixture(scope="module")
def operator(superlink: SuperLink) -> Iterator[Operator]:
    one = Operator(superlink)
    yield one
    one.close()


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, app: App, superlink: SuperLink
) -> Iterator[list[LightDevice]]:
    folder = tmp_path_factory.mktemp("devices")
    section = {
        "address": superlink.address,
        "insecure": False,
        "root_certificates": str(superlink.root_certificates),
        "poll_seconds": 0.2,
    }
    gateway = {"federation": section, "dial": LOOPBACK, "port": superlink.port}
    gateway["app"] = {"fab_sha256": app.fab_sha256}
    all_of_them = [
        LightDevice(
            folder / str(number), FOLDER, gateway, EXACT,
            {"partition-id": number, "num-partitions": DEVICES},
        )
        for number in range(DEVICES)
    ]  # fmt: skip
    for device in all_of_them:
        device.start()
    for device in all_of_them:
        device.wait_for("connected")
    yield all_of_them
    for device in all_of_them:
        device.stop()


@pytest.fixture
def devices(started: list[LightDevice]) -> list[LightDevice]:
    """All of them, with nothing told yet in this test."""
    for device in started:
        device.told.clear()
    return started


def mean(weights: Any, active: list[int], number: int) -> Any:
    """What the sum must be: each device learns from its part; Flower weighs by what the guards let out."""
    x, y = task.load_sklearn(test=False)
    parts = [(x[index::DEVICES], y[index::DEVICES]) for index in active]
    moved = [task.train(weights, *part, epochs=5, lr=0.05, seed=number) for part in parts]
    return np.average(moved, axis=0, weights=[bucket(len(part[1])) for part in parts])


def test_a_plain_mean_gets_nothing_from_devices_that_want_a_sum(
    app: App, operator: Operator, devices: list[LightDevice]
) -> None:
    run = operator.start(app, {"way": "mean", "num-server-rounds": 1})
    assert operator.wait(run, RUN_SECONDS).finished
    for device in devices:
        assert [told["code"] for told in device.wait_for("refused")] == ["secagg_required"]
        assert device.of_type("released") == []


def test_a_server_that_asks_for_a_low_threshold_gets_nothing(
    app: App, operator: Operator, devices: list[LightDevice]
) -> None:
    run = operator.start(app, {"way": "secure", "num-server-rounds": 1, "threshold": 0.4})
    assert operator.wait(run, RUN_SECONDS).finished
    for device in devices:
        assert [told["code"] for told in device.wait_for("refused")] == ["secagg_threshold"]
        assert device.of_type("released") == []


def test_the_sum_is_right_also_when_a_device_drops_out(
    tmp_path: Path, app: App, operator: Operator, devices: list[LightDevice]
) -> None:
    results = tmp_path / "results.jsonl"
    run = operator.start(app, {"way": "secure", "num-server-rounds": 2, "results": str(results)})
    # The last device gives its shares in the second round, too, but no numbers.
    devices[-1].wait_for("released", STAGES, RUN_SECONDS)
    devices[-1].lose_trainer()
    state = operator.wait(run, RUN_SECONDS)
    assert state.outcome == "completed", operator.log(run)
    found = [np.array(json.loads(line)["weights"], np.float32) for line in results.read_text().splitlines()]
    assert len(found) == 3, operator.log(run)
    steps = [np.abs(found[1] - mean(found[0], [0, 1, 2, 3, 4], 1)).max()]
    steps.append(np.abs(found[2] - mean(found[1], [0, 1, 2, 3], 2)).max())
    moved = np.abs(np.diff(found, axis=0)).max(axis=(1, 2))
    print(f"off the foretold mean by {steps}, of a largest change of {moved}")
    assert max(steps) < 1e-3 < min(moved)
    for device in devices[:-1]:
        assert [told["kind"] for told in device.of_type("released")] == [
            "secagg",
            "secagg",
            "train",
            "secagg",
        ] * 2
        assert device.of_type("refused") == []
        check_ledger(device.state / "guard" / ledger.FILE)
    assert [told["code"] for told in devices[-1].of_type("refused")] == ["trainer_died"]


def check_ledger(file: Path) -> None:
    """Every message of every stage was released by an entry; an update alone costs."""
    reader = ledger.open_reader(file)
    assert reader.verify() == ()
    details = [json.loads(entry.details) for entry in reader.entries() if entry.kind == "release"]
    reader.close()
    assert [(entry["message_type"], entry["cost"]) for entry in details] == [
        ("secagg", 0.0), ("secagg", 0.0), ("train", None), ("secagg", 0.0),
    ] * 2  # fmt: skip
    assert details[2]["metrics"].keys() == {"num_examples", "loss"}
