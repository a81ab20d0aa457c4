# SPDX-License-Identifier: Apache-2.0
"""What the device does: go wrong in the way that the message names, or answer as an honest app would.

A behaviour is a function from the model's arrays to what is answered. One that harms first and then
answers well is told apart from one that answers badly.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

app = ClientApp()
Arrays = dict[str, NDArray[Any]]
FILE = "numbers.npy"


def honest(arrays: Arrays, amount: float) -> Arrays:
    return {name: array + np.asarray(amount or 0.01, array.dtype) for name, array in arrays.items()}


def fails(arrays: Arrays, amount: float) -> Arrays:
    raise RuntimeError("the record of patient 4711 is odd")


def exits(arrays: Arrays, amount: float) -> Arrays:
    sys.exit(3)


def dies(arrays: Arrays, amount: float) -> Arrays:
    os._exit(0)


def hangs(arrays: Arrays, amount: float) -> Arrays:
    """For ``amount`` seconds; then it is honest."""
    time.sleep(amount)
    return honest(arrays, 0.01)


def not_finite(arrays: Arrays, amount: float) -> Arrays:
    changed = honest(arrays, 0.01)
    next(iter(changed.values())).flat[1] = np.nan
    return changed


def other_shape(arrays: Arrays, amount: float) -> Arrays:
    return {name: np.concatenate([array, array]) for name, array in arrays.items()}


def extra_key(arrays: Arrays, amount: float) -> Arrays:
    return {**honest(arrays, 0.01), "records": np.zeros(4, np.float32)}


def huge(arrays: Arrays, amount: float) -> Arrays:
    """``amount`` bytes."""
    return {name: np.zeros(int(amount), np.uint8) for name in arrays}


def huge_name(arrays: Arrays, amount: float) -> Arrays:
    return {"x" * int(amount): array for array in arrays.values()}


def forks_and_dies(arrays: Arrays, amount: float) -> Arrays:
    for _ in range(3):
        _child()
    os._exit(0)


def forks(arrays: Arrays, amount: float) -> Arrays:
    """``amount`` children that stay, or as many as there may be."""
    made = 0
    try:
        for _ in range(int(amount)):
            _child()
            made += 1
    finally:
        print(f"children: {made}", flush=True)
    return honest(arrays, 0.01)


def _child() -> None:
    """One that leaves the session and ignores what it can ignore."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)


def eats_memory(arrays: Arrays, amount: float) -> Arrays:
    """Up to ``amount`` bytes, every page touched."""
    eaten = []
    for _ in range(int(amount) >> 24):
        eaten.append(np.ones(1 << 24, np.uint8))
        print(f"ate {len(eaten) << 24}", flush=True)
    return honest(arrays, 0.01)


def fills_scratch(arrays: Arrays, amount: float) -> Arrays:
    """Up to ``amount`` bytes in /tmp."""
    with open("/tmp/filled", "wb", buffering=0) as file:
        for _ in range(int(amount) >> 20):
            file.write(bytes(1 << 20))
    return honest(arrays, 0.01)


def prints(arrays: Arrays, amount: float) -> Arrays:
    """``amount`` bytes on both outputs."""
    line = "y" * 999 + "\n"
    for _ in range(int(amount) // 2000):
        sys.stdout.write(line)
        sys.stderr.write(line)
    sys.stdout.flush()
    return honest(arrays, 0.01)


def writes_data(arrays: Arrays, amount: float) -> Arrays:
    Path("/data/new").write_text("mine")
    return honest(arrays, 0.01)


def changes_data(arrays: Arrays, amount: float) -> Arrays:
    with open(f"/data/{FILE}", "r+b") as file:
        file.write(b"mine")
    return honest(arrays, 0.01)


def connects(arrays: Arrays, amount: float) -> Arrays:
    """``amount`` refused sockets, and not a word about them."""
    for _ in range(int(amount)):
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        except OSError as error:
            print("refused", error.errno, flush=True)
    return honest(arrays, 0.01)


BEHAVIOURS: Mapping[str, Callable[[Arrays, float], Arrays]] = {
    function.__name__: function
    for function in (
        honest, fails, exits, dies, hangs, not_finite, other_shape, extra_key, huge, huge_name,
        forks_and_dies, forks, eats_memory, fills_scratch, prints, writes_data, changes_data, connects,
    )
}  # fmt: skip


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do what the message names."""
    order = message.content.config_records["config"]
    records = len(np.load(Path(str(context.node_config["data-path"]), FILE)))
    model = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    answer = BEHAVIOURS[str(order["behaviour"])](model, float(str(order["amount"])))
    arrays = ArrayRecord({name: Array(array) for name, array in answer.items()})
    metrics = MetricRecord({"loss": 0.5, "num-examples": records})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
