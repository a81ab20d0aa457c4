# SPDX-License-Identifier: Apache-2.0
"""What the server does: average what the devices send, and test the result on records no device has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from . import task
from .prompt_grid import PromptGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A few rounds of federated averaging."""
    config = context.run_config
    torch.manual_seed(int(config["seed"]))
    nodes, share = int(config["min-nodes"]), float(config["fraction-evaluate"])
    strategy = FedAvg(
        fraction_evaluate=share,
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes if share else 0,
        min_available_nodes=nodes,
    )
    pause = float(config["reply-poll-seconds"])
    strategy.start(
        grid=PromptGrid(grid, pause) if pause else grid,
        initial_arrays=ArrayRecord(task.Net().state_dict()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluator(str(config["test-data"]), str(config["results"])),
    )


def evaluator(test_data: str, results: str) -> Callable[[int, ArrayRecord], MetricRecord]:
    """A function that tests the global model after each round and adds a line to ``results`` if given."""
    records = task.load_file(test_data) if test_data else task.load_sklearn(test=True)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = task.Net()
        model.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = task.evaluate(model, records)
        if results:
            line = {"round": server_round, "accuracy": accuracy, "loss": loss, "time": time.time()}
            with Path(results).open("a") as file:
                file.write(json.dumps(line) + "\n")
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    return evaluate
