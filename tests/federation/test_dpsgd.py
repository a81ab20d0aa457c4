# SPDX-License-Identifier: Apache-2.0
"""examples/dpsgd: two devices learn by DP-SGD, each behind a guard's own clipping and noise."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from homebound.guard import release
from homebound.guard.release import Release
from homebound.guard.release import Task as GuardTask
from homebound.records import Record, Records
from homebound.settings import GuardSettings

if not os.environ.get("CI"):  # on a build server the example's requirement is there
    pytest.importorskip("opacus", reason="packaging/requirements/dev.txt has it")

from homebound.trainer.app import Runner, Task, load

FOLDER: Path = ROOT / "examples" / "dpsgd"
DEVICES, ROUNDS = 2, 2
EPSILON = re.compile(r"dpsgd: ([0-9]+) steps, epsilon ([0-9.]+) a record")


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    monkeypatch.syspath_prepend(str(FOLDER))
    installed = load(FOLDER)
    return [Runner(installed, {"partition-id": place, "num-partitions": DEVICES}) for place in range(DEVICES)]


@pytest.mark.filterwarnings("ignore")  # Opacus warns of its generator; docs/privacy.md does, too
def test_two_rounds(runners: list[Runner], capfd: pytest.CaptureFixture[str]) -> None:
    task: Any = importlib.import_module("dpsgd.task")
    generator = np.random.default_rng(1)
    weights = task.Net().state_dict()["head.weight"].numpy()
    for number in range(1, ROUNDS + 1):
        model = Record("arrays", "arrays", ("head.weight",), (weights,))
        updates = [runner.run(Task("t", number, "train", (model,), {})) for runner in runners]
        weights = np.mean(
            [released(model, update, generator) for update in updates], axis=0, dtype=np.float32
        )
    spent = [(int(steps), float(epsilon)) for steps, epsilon in EPSILON.findall(capfd.readouterr().err)]
    net = task.Net()
    net.load_state_dict({"head.weight": importlib.import_module("torch").from_numpy(weights)})
    found = task.accuracy(net, task.load_sklearn(test=True))
    print(f"accuracy {found:.3f} after {ROUNDS} rounds, {spent}")
    assert found > 0.5
    # Each of the two devices goes on counting where its last round ended.
    assert len(spent) == DEVICES * ROUNDS
    assert spent[2][0] == 2 * spent[0][0]
    assert 0 < spent[0][1] < spent[2][1] < 20


def released(model: Record, update: Records, generator: np.random.Generator) -> Any:
    """What the guard lets out of it by default."""
    asked = GuardTask("t", "r", 1, "train", (model,))
    decision = release.decide(asked, update, GuardSettings(), generator.standard_normal)
    assert isinstance(decision, Release), decision
    return decision.records[0].values[0]
