# SPDX-License-Identifier: Apache-2.0
"""The leaky example: it tries what its target names, says so line by line, and answers validly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from homebound.leaktest.attempts import CHANNELS, NAMES
from homebound.leaktest.run import Tried, conclude, receivers

pytestmark = pytest.mark.root

TOKEN = "5" * 32
# The trainer's own way to load and call an app, without its process around it.
PROGRAM = """
import json, sys, time
import torch
from flwr.app import ArrayRecord, Context, Message, Metadata, RecordDict
from pathlib import Path
from homebound.trainer.app import load
installed = load(Path(sys.argv[1]))
state = {"0.weight": torch.zeros(32, 64), "0.bias": torch.ones(32),
         "2.weight": torch.ones(10, 32) / 9, "2.bias": torch.zeros(10)}
metadata = Metadata(1, "", 1, 1, "", "1", time.time(), 60.0, "train", 1, 1)
message = Message(content=RecordDict({"arrays": ArrayRecord(state)}), metadata=metadata)
context = Context(run_id=0, node_id=0, node_config={"data-path": sys.argv[2], "leak-target": sys.argv[3]},
                  state=RecordDict(), run_config=dict(installed.run_config))
reply = installed.client_app(message, context).content
update = reply["arrays"].to_torch_state_dict()
print("update", json.dumps({
    "shapes": {name: list(tensor.shape) for name, tensor in update.items()},
    "finite": all(bool(torch.isfinite(tensor).all()) for tensor in update.values()),
    "metrics": dict(reply["metrics"]),
}))
"""


def run_app(folder: Path, target: str) -> list[str]:
    rows = np.random.default_rng(1).random((20, 64), dtype=np.float32)
    np.savez(folder / "digits.npz", x=rows, y=np.arange(20) % 10)
    words = [sys.executable, "-B", "-c", PROGRAM, str(ROOT / "examples/leaky"), str(folder), target]
    done = subprocess.run(words, capture_output=True, text=True, close_fds=False, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def update_of(lines: list[str]) -> dict[str, Any]:
    (line,) = (line for line in lines if line.startswith("update "))
    update: dict[str, Any] = json.loads(line.removeprefix("update "))
    return update


@pytest.mark.usefixtures("network")
def test_it_leaks_where_nothing_holds_it_and_answers_well(tmp_path: Path) -> None:
    with receivers(CHANNELS) as heard:
        lines = run_app(tmp_path, heard.target(TOKEN).to_json())
        report = conclude(CHANNELS, heard, Tried(TOKEN, lines, prefix="homebound-leak "))
    assert [outcome.name for outcome in report.channels] == list(NAMES)
    assert all(outcome.out or outcome.control == "not applicable" for outcome in report.channels), report
    update = update_of(lines)
    assert update["shapes"] == {"0.weight": [32, 64], "0.bias": [32], "2.weight": [10, 32], "2.bias": [10]}
    assert update["finite"]
    assert update["metrics"]["num-examples"] == 20


def test_without_a_target_it_is_an_honest_app(tmp_path: Path) -> None:
    lines = run_app(tmp_path, "")
    assert not any(line.startswith("homebound-leak") for line in lines)
    assert update_of(lines)["finite"]
