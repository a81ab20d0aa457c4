# SPDX-License-Identifier: Apache-2.0
"""What the server does: put the parts together in the way that the run asks for, and test the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as older
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedTrimmedAvg, Krum, Strategy

from . import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A few rounds."""
    config = context.run_config
    if config["way"] == "secure":
        add_securely(grid, context)
        return
    nodes = int(config["nodes"])
    strategy = make_strategy(str(config["way"]), nodes, int(config["poisoned"]))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"weights": Array(task.start())}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=lambda number, arrays: note(config, number, arrays["weights"].numpy()),
    )


def make_strategy(way: str, nodes: int, poisoned: int) -> Strategy:
    """Flower's strategy of that name, for so many devices of which some may be poisoned."""
    asked: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": nodes,
        "min_evaluate_nodes": 0,
        "min_available_nodes": nodes,
    }
    if way == "trimmed":
        # As many values are left out at either end as there may be poisoned devices.
        return FedTrimmedAvg(beta=poisoned / nodes + 1e-9, **asked)
    if way == "krum":
        return Krum(num_malicious_nodes=poisoned, **asked)
    return FedAvg(**asked)


def add_securely(grid: Grid, context: Context) -> None:
    """Flower's SecAgg+. Its workflow knows strategies of the older kind only."""
    config = context.run_config
    nodes = int(config["nodes"])
    strategy = older.FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_evaluate_clients=0,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters([task.start()]),
        evaluate_fn=lambda number, arrays, _: evaluated(config, number, arrays[0]),
    )
    rounds = ServerConfig(num_rounds=int(config["num-server-rounds"]))
    secure = SecAggPlusWorkflow(
        num_shares=float(config["shares"]),
        reconstruction_threshold=float(config["threshold"]),
        timeout=float(config["timeout"]) or None,
    )
    DefaultWorkflow(fit_workflow=secure)(grid, LegacyContext(context, rounds, strategy))


def evaluated(config: Any, number: int, weights: task.Weights) -> tuple[float, dict[str, float]]:
    """Loss and accuracy, as strategies of the older kind want them."""
    found = note(config, number, weights)
    return float(found["loss"]), {"accuracy": float(found["accuracy"])}


def note(config: Any, number: int, weights: task.Weights) -> MetricRecord:
    """Test the model, and write a line to the file of results if there is one."""
    file = str(config["test-data"])
    loss, accuracy = task.evaluate(weights, *(task.load_file(file) if file else task.load_sklearn(test=True)))
    if config["results"]:
        line = {"round": number, "accuracy": accuracy, "loss": loss, "weights": weights.tolist()}
        with Path(str(config["results"])).open("a") as lines:
            lines.write(json.dumps(line) + "\n")
    return MetricRecord({"accuracy": accuracy, "loss": loss})
