# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation by real daemons: three devices with walls and credit under a SuperLink of their own."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from daemon.conftest import install
from daemon.federation import Federation
from daemon.rig import TRAINER, Daemon, Document
from homebound.demo.superlink import Operator, bundle, make_superlink
from homebound.guard.checks import bucket

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

FOLDER = ROOT / "examples" / "aggregation"
sys.path.insert(0, str(FOLDER))
task: Any = importlib.import_module("aggregation.task")

DEVICES, RECORDS, RUN_SECONDS = 3, 100, 150.0
# Without noise, and with a norm that no honest change reaches, the sum can be foretold.
EXACT = {
    "clip_norm": 1000.0, "noise_multiplier": 0.0, "quantum_bits": 32, "epsilon_limit": 0.0,
    "run_epsilon_limit": 0.0, "secagg_required": True,
}  # fmt: skip
# What a device hears of in a round: setup, keys, the model, the list of who is in the sum.
STAGES = 4


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Federation]:
    """A SuperLink and the app that devices approve."""
    link = make_superlink(tmp_path / "superlink")
    link.start()
    yield Federation(tmp_path, link, bundle(FOLDER), FOLDER)
    link.stop()


@pytest.fixture
def devices(
    place: Federation, numbers: count[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Daemon]]:
    """Three of them, each with a part of the digits."""
    x, y = task.load_sklearn(test=False)
    made = []
    for part in range(DEVICES):
        device = install(tmp_path_factory.mktemp("device"), next(numbers), place)
        file = Path(device.config["data"]["path"]) / task.FILE
        np.savez(file, x=x[part::DEVICES][:RECORDS], y=y[part::DEVICES][:RECORDS])
        os.chown(file, device.base + TRAINER, device.base + TRAINER)
        device.config["guard"] = dict(EXACT)
        made.append(device)
    try:
        for device in made:
            device.start()
        for device in made:
            device.wait_ready()
        yield made
    finally:
        for device in made:
            device.clear()


def foretold(weights: Any) -> Any:
    """What the sum must be: each device learns from its part; Flower weighs by what the guards let out."""
    x, y = task.load_sklearn(test=False)
    parts = [(x[part::DEVICES][:RECORDS], y[part::DEVICES][:RECORDS]) for part in range(DEVICES)]
    moved = [task.train(weights, *part, epochs=5, lr=0.05, seed=1) for part in parts]
    return np.average(moved, axis=0, weights=[bucket(len(part[1])) for part in parts])


def test_the_sum_leaves_within_the_credit_and_every_byte_is_accounted_for(
    place: Federation, devices: list[Daemon], tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    operator = Operator(place.link)
    words: dict[str, str | int] = {
        "way": "secure",
        "nodes": DEVICES,
        "num-server-rounds": 1,
        "results": str(results),
    }
    run = operator.start(place.app, words)
    state = operator.wait(run, RUN_SECONDS)
    assert state.outcome == "completed", operator.log(run)
    operator.close()
    before, after = [np.array(json.loads(line)["weights"]) for line in results.read_text().splitlines()]
    assert np.abs(after - foretold(before.astype(np.float32))).max() < 1e-3 < np.abs(after - before).max()
    for device in devices:
        found = device.wait("all released", lambda s: s["released"]["updates"] == STAGES)
        check_books(device, found)
        assert device.stop().status == 0
        assert device.leftovers() == []


def check_books(device: Daemon, found: Document) -> None:
    """The guard's grants were enough, and nothing left that was not told of."""
    assert "credit" not in found["denied"].get("gateway", {})
    assert found["violations"] == []
    assert found["unaccounted_bytes"] == 0
    released = [entry for entry in device.entries() if entry.kind == "release"]
    assert len(released) == STAGES
    print(f"{device.name}: {found['credit']}, {found['released']}")
    assert 0 < found["credit"]["used"] <= found["credit"]["guard"] + found["credit"]["supervisor"]
