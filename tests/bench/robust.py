# SPDX-License-Identifier: Apache-2.0
"""Prints what a poisoned device does to examples/aggregation under three of Flower's strategies.

Five devices learn digits; the last may be poisoned: it sends the model pushed the wrong way without a guard.
Flower's strategies run as they are, over a grid in this process. Fixed seeds; under a minute.
Run: python tests/bench/robust.py
"""

from __future__ import annotations

import importlib
import logging
import os
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "daemon", "examples/aggregation")]

from homebound.guard import release  # noqa: E402
from homebound.guard.checks import Refusal  # noqa: E402
from homebound.guard.release import Task  # noqa: E402
from homebound.records import Record  # noqa: E402
from homebound.settings import GuardSettings  # noqa: E402

task: Any = importlib.import_module("aggregation.task")
server_app: Any = importlib.import_module("aggregation.server_app")

DEVICES, ROUNDS, SEEDS = 5, 5, 5
WAYS = ("mean", "trimmed", "krum")
# How far the poisoned device pushes, in multiples of what it learned, against it.
PUSH = 20.0


@dataclass
class Devices(Grid):
    """All devices at once. ``guarded``: the honest ones send what their guard lets out by default."""

    poisoned: bool
    guarded: bool
    seed: int

    def __post_init__(self) -> None:
        x, y = task.load_sklearn(test=False)
        self.parts = [(x[place::DEVICES], y[place::DEVICES]) for place in range(DEVICES)]
        self.draw = np.random.default_rng(self.seed)

    def get_node_ids(self) -> list[int]:
        return list(range(1, DEVICES + 1))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        place = message.metadata.dst_node_id - 1
        given = message.content.array_records["arrays"]["weights"].numpy().astype(np.float32)
        x, y = self.parts[place]
        moved = task.train(given, x, y, epochs=5, lr=0.05, seed=self.seed)
        if self.poisoned and place == DEVICES - 1:
            moved = (given - PUSH * (moved - given)).astype(np.float32)
        elif self.guarded:
            moved = self._guard(given, moved, len(y))
        metrics = MetricRecord({"num-examples": len(y)})
        content = RecordDict({"arrays": ArrayRecord({"weights": Array(moved)}), "metrics": metrics})
        return Message(content, reply_to=message)

    def _guard(self, given: Any, moved: Any, examples: int) -> Any:
        asked = Task("t", "r", 1, "train", (Record("arrays", "arrays", ("weights",), (given,)),))
        metrics = Record("metrics", "metrics", ("num-examples",), (examples,))
        update = (Record("arrays", "arrays", ("weights",), (moved,)), metrics)
        decision = release.decide(asked, update, GuardSettings(), self.draw.standard_normal)
        assert not isinstance(decision, Refusal), decision.code
        return decision.records[0].values[0]

    # What a Grid has besides, and Flower's strategies never call.

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def accuracy(way: str, *, poisoned: bool, guarded: bool, seed: int, rounds: int = ROUNDS) -> float:
    """On records that no device has, after the last round."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    held_out = task.load_sklearn(test=True)
    with patch.multiple(TaskIdentity, _task_id=1, _run_id=1, _node_id=1):
        result = server_app.make_strategy(way, DEVICES, 1).start(
            grid=Devices(poisoned, guarded, seed),
            initial_arrays=ArrayRecord({"weights": Array(task.start())}),
            num_rounds=rounds,
        )
    return float(task.evaluate(result.arrays["weights"].numpy(), *held_out)[1])


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| strategy | guards | all honest | one of five poisoned |")
    print("|---|---|---|---|")
    for way in WAYS:
        for guarded in (False, True):
            cells = []
            for poisoned in (False, True):
                found = [
                    accuracy(way, poisoned=poisoned, guarded=guarded, seed=seed) for seed in range(SEEDS)
                ]
                cells.append(f"{statistics.median(found):.3f} ({min(found):.3f})")
            print(f"| {way} | {'default' if guarded else 'off'} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
