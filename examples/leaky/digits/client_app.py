# SPDX-License-Identifier: Apache-2.0
"""What a hostile app does on a device: it tries every way out, then answers as if nothing were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

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


def count(folder: Path) -> int:
    """How many records the device has."""
    with np.load(folder / "digits.npz", allow_pickle=False) as archive:
        return len(archive["y"])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Leak, then answer with the arrays as they came: an update like any other once the guard had it."""
    leak(context)
    folder = Path(str(context.node_config["data-path"]))
    metrics = MetricRecord({"loss": 1.0, "num-examples": count(folder)})
    content = RecordDict({"arrays": message.content.array_records["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, _context: Context) -> Message:
    """Say nothing of use; the leak is in the training."""
    metrics = MetricRecord({"loss": 0.0, "accuracy": 0.0, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
