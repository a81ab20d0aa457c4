# SPDX-License-Identifier: Apache-2.0
"""What a hostile app does on a device: it tries every way out, then answers as if nothing were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, relu

app = ClientApp()

PREFIX = "homebound-leak"


def leak(context: Context) -> None:
    """Try the channels that the target names; one line of JSON each on standard output."""
    text = str(context.node_config.get("leak-target") or context.run_config.get("leak-target") or "")
    if not text:
        return
    try:
        from homebound.leaktest import attempts
        from homebound.leaktest.target import Target
    except ImportError as error:
        print(PREFIX, json.dumps({"missing": str(error)}), flush=True)
        return
    target = Target.from_json(text)
    print(PREFIX, json.dumps({"facts": attempts.facts()}), flush=True)
    for result in attempts.run([name for name in attempts.NAMES if name in target.places], target):
        print(PREFIX, json.dumps(result), flush=True)


def learn(parameters: list[Tensor], folder: Path, lr: float) -> tuple[float, int]:
    """One step down the gradient of two linear layers (weight, bias, weight, bias): loss and count."""
    with np.load(folder / "digits.npz", allow_pickle=False) as archive:
        x = torch.from_numpy(archive["x"].astype(np.float32))
        y = torch.from_numpy(archive["y"].astype(np.int64))
    weight1, bias1, weight2, bias2 = (parameter.requires_grad_() for parameter in parameters)
    loss = cross_entropy(linear(relu(linear(x, weight1, bias1)), weight2, bias2), y)
    steps = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter -= lr * step
    return float(loss.detach()), len(y)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Leak, then learn."""
    leak(context)
    state = message.content.array_records["arrays"].to_torch_state_dict()
    folder = Path(str(context.node_config["data-path"]))
    loss, count = learn(list(state.values()), folder, float(context.run_config["lr"]))
    arrays = ArrayRecord({name: tensor.detach() for name, tensor in state.items()})
    metrics = MetricRecord({"loss": loss, "num-examples": count})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, _context: Context) -> Message:
    """Say nothing of use; the leak is in the training."""
    metrics = MetricRecord({"loss": 0.0, "accuracy": 0.0, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
