# SPDX-License-Identifier: Apache-2.0
"""What a device does: learn from its own digits, or say how well a model does on them."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from . import task

app = ClientApp()


def own_records(context: Context) -> task.Records:
    """The folder that the operator named, else a part of scikit-learn's digits (simulation, stock node)."""
    folder = context.node_config.get("data-path", "")
    if folder:
        return task.load_folder(str(folder))
    index = int(context.node_config.get("partition-id", 0))
    count = int(context.node_config.get("num-partitions", 1))
    return task.partition(task.load_sklearn(test=False), index, count)


def model_of(message: Message) -> task.Net:
    """The global model that came with the message."""
    model = task.Net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of learning."""
    config = context.run_config
    torch.set_num_threads(1)
    model, records = model_of(message), own_records(context)
    loss = task.train(
        model,
        records,
        epochs=int(config["local-epochs"]),
        lr=float(config["lr"]),
        batch_size=int(config["batch-size"]),
        seed=int(config["seed"]),
    )
    metrics = MetricRecord({"loss": loss, "num-examples": len(records[1])})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The global model on this device's own records."""
    records = own_records(context)
    loss, accuracy = task.evaluate(model_of(message), records)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(records[1])})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
