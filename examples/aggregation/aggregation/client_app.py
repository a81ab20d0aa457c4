# SPDX-License-Identifier: Apache-2.0
"""What a device does, however its part is added up: learn from its own digits."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from . import task

app = ClientApp()


def own_records(context: Context) -> tuple[task.Pixels, task.Labels]:
    """The folder that the operator named, else a part of scikit-learn's digits (simulation, stock node)."""
    folder = context.node_config.get("data-path", "")
    if folder:
        return task.load_folder(str(folder))
    index = int(context.node_config.get("partition-id", 0))
    count = int(context.node_config.get("num-partitions", 1))
    x, y = task.load_sklearn(test=False)
    return x[index::count], y[index::count]


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of learning. The only array is the model, whatever the server calls it."""
    ((name, array),) = message.content.array_records["arrays"].items()
    weights, (x, y) = array.numpy(), own_records(context)
    moved = task.train(
        weights,
        x,
        y,
        epochs=int(context.run_config["local-epochs"]),
        lr=float(context.run_config["lr"]),
        seed=int(message.metadata.group_id or 0),
    )
    loss, _ = task.evaluate(moved, x, y)
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(moved.astype(np.float32))}),
            "metrics": MetricRecord({"loss": loss, "num-examples": len(y)}),
        }
    )
    return Message(content, reply_to=message)
