# SPDX-License-Identifier: Apache-2.0
"""Hostile ClientApps: each hides raw records in one place of its answer, and somebody outside looks there.

The apps are Flower's own, run by the trainer's Runner on records in a folder. What they hide is whitened with
a stream that both sides know, so that a guess is right in half of the bits. May import: all of homebound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from homebound.guard import release
from homebound.guard.checks import Refusal
from homebound.guard.noise import gaussian
from homebound.guard.release import Task
from homebound.records import Record, Records
from homebound.settings import GuardSettings
from homebound.trainer.app import Installed, Runner
from homebound.trainer.app import Task as Asked

Bits = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
Answer = tuple[Arrays, dict[str, Any]]
FILE = "records.npy"
# A pixel of a digit is one of 17 values: 5 bits. 8 records of 64 pixels.
PIXEL_BITS, RECORDS = 5, 8
PAYLOAD = RECORDS * 64 * PIXEL_BITS
HONEST = {"loss": 0.5, "num-examples": 718}


@dataclass(frozen=True)
class Channel:
    """A place to hide ``bits`` of a payload in: how the app does it, and how it is read outside.

    ``find`` gets the model before the round and the records that left, or a text that did.
    """

    name: str
    bits: int
    hide: Callable[[Arrays, Bits], Answer]
    find: Callable[[Records, Any, int], Bits]


def start() -> Records:
    """The global model: a small network with a BatchNorm counter."""
    draw = np.random.default_rng(5)
    shapes = {"0.weight": (64, 64), "0.bias": (64,), "2.weight": (10, 64), "2.bias": (10,)}
    arrays: Arrays = {
        name: (draw.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()
    }
    arrays["1.num_batches_tracked"] = np.array(7)
    return (Record("arrays", "arrays", tuple(arrays), tuple(arrays.values())),)


def stream(count: int, seed: int) -> Bits:
    """What both sides know."""
    return np.random.default_rng([77, seed]).integers(0, 2, count, dtype=np.uint8)


def secret(folder: Path, count: int, seed: int) -> Bits:
    """The first bits of the records in a folder, whitened."""
    pixels = np.load(folder / FILE).astype(np.uint8).flatten()
    bits = np.unpackbits(pixels[:, None], axis=1)[:, 8 - PIXEL_BITS :].flatten()[:count]
    return bits ^ stream(count, seed)


def answer(channel: Channel, folder: Path, seed: int) -> Records:
    """Let the app train once, as the device would. Raises whatever the app raises."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
        bits = secret(Path(str(context.node_config["data-path"])), channel.bits, seed)
        arrays, metrics = channel.hide(model, bits)
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
                "metrics": MetricRecord(metrics),
            }
        )
        return Message(content, reply_to=message)

    runner = Runner(Installed(app, {}), {"data-path": str(folder)})
    return runner.run(Asked("t", seed, "train", start(), {}))


def through(channel: Channel, folder: Path, guard: GuardSettings | None, seed: int) -> Bits:
    """What is read outside after one round. No guard: the answer, or the error's text, as the app made it."""
    try:
        update = answer(channel, folder, seed)
    except RuntimeError as error:
        # With the guard a code crosses, and the federation hears of no reason at all.
        left: Any = str(error) if guard is None else None
    else:
        left = update if guard is None else judged(update, guard, seed)
    if left is None:
        return np.zeros(channel.bits, np.uint8)
    return channel.find(start(), left, channel.bits)


def judged(update: Records, guard: GuardSettings, seed: int) -> Records | None:
    """What the guard lets out of it; None when it refuses."""
    draw = np.random.default_rng([99, seed])
    task = Task("t", "r", 1, "train", start())
    decision = release.decide(task, update, guard, lambda count: gaussian(count, draw.bytes))
    return None if isinstance(decision, Refusal) else decision.records


@dataclass(frozen=True)
class Result:
    """Over all rounds: the share of bits that were right, and bits of information that passed in one."""

    right: float
    passed: float


def measure(channel: Channel, folder: Path, guard: GuardSettings | None, rounds: int) -> Result:
    """Hide and look ``rounds`` times. Information is summed over the positions in the payload.

    1 - H(error rate) of each position, less what a coin would show by chance (Miller and Madow 1955).
    """
    wrong = np.zeros(channel.bits)
    for seed in range(rounds):
        found = through(channel, folder, guard, seed)
        wrong += found != secret(folder, channel.bits, seed)
    rate = wrong / rounds
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(rate * np.log2(rate)) - np.nan_to_num((1 - rate) * np.log2(1 - rate))
    bias = 1 / (2 * rounds * math.log(2))
    return Result(float(1 - rate.mean()), max(0.0, float((1 - entropy).sum() - channel.bits * bias)))


# Where to hide ----------------------------------------------------------------------------------------


def of(records: Records, kind: str) -> dict[str, Any]:
    """Names and values of the first record of a kind."""
    for record in records:
        if record.kind == kind:
            return dict(zip(record.keys, record.values, strict=True))
    return {}


def floats(arrays: dict[str, Any]) -> NDArray[np.float32]:
    """All float32 numbers of a model in one row, by name."""
    return np.concatenate(
        [arrays[name].ravel() for name in sorted(arrays) if arrays[name].dtype == np.float32]
    )


def with_floats(model: Arrays, row: NDArray[np.float32]) -> Arrays:
    """The model with other float32 numbers."""
    result, at = dict(model), 0
    for name in sorted(model):
        if model[name].dtype == np.float32:
            result[name] = row[at : at + model[name].size].reshape(model[name].shape).astype(np.float32)
            at += model[name].size
    return result


def mantissa_hide(model: Arrays, bits: Bits) -> Answer:
    """The lowest bit of each weight."""
    row = floats(model).view(np.uint32).copy()
    row[: len(bits)] = (row[: len(bits)] & ~np.uint32(1)) | bits
    return with_floats(model, row.view(np.float32)), HONEST


def mantissa_find(before: Records, left: Any, count: int) -> Bits:
    return (floats(of(left, "arrays")).view(np.uint32)[:count] & 1).astype(np.uint8)


def change_hide(size: float) -> Callable[[Arrays, Bits], Answer]:
    """The sign of a change by ``size`` of the first weights."""

    def hide(model: Arrays, bits: Bits) -> Answer:
        row = floats(model).copy()
        row[: len(bits)] += np.where(bits, size, -size).astype(np.float32)
        return with_floats(model, row), HONEST

    return hide


def change_find(before: Records, left: Any, count: int) -> Bits:
    change = floats(of(left, "arrays")) - floats(of(before, "arrays"))
    return (change[:count] > 0).astype(np.uint8)


def not_a_number_hide(model: Arrays, bits: Bits) -> Answer:
    """NaN has 22 free bits; one of each is used here."""
    row = floats(model).view(np.uint32).copy()
    row[: len(bits)] = np.uint32(0x7FC00000) | bits
    return with_floats(model, row.view(np.float32)), HONEST


def zeros_hide(model: Arrays, bits: Bits) -> Answer:
    """Zero has a sign."""
    row = floats(model).copy()
    row[: len(bits)] = np.where(bits, np.float32(-0.0), np.float32(0.0))
    return with_floats(model, row), HONEST


def zeros_find(before: Records, left: Any, count: int) -> Bits:
    return np.signbit(floats(of(left, "arrays"))[:count]).astype(np.uint8)


def whole(bits: Bits) -> int:
    return int("".join(map(str, bits)) or "0", 2)


def bits_of(value: int, count: int) -> Bits:
    return np.array(list(f"{max(0, value):0{count}b}"[-count:]), np.uint8)


def counter_hide(model: Arrays, bits: Bits) -> Answer:
    """BatchNorm's counter is a whole number of 64 bits, and no noise may be added to it."""
    return {**model, "1.num_batches_tracked": np.array(7 + whole(bits))}, HONEST


def counter_find(before: Records, left: Any, count: int) -> Bits:
    return bits_of(int(of(left, "arrays")["1.num_batches_tracked"]) - 7, count)


def digits_hide(model: Arrays, bits: Bits) -> Answer:
    """Two metrics as fractions in 0..1 with all the digits of a double."""
    half = len(bits) // 2
    parts = {
        name: whole(part) / 2.0**half for name, part in (("loss", bits[:half]), ("accuracy", bits[half:]))
    }
    return model, {**HONEST, **parts}


def digits_find(before: Records, left: Any, count: int) -> Bits:
    said, half = of(left, "metrics"), count // 2
    return np.concatenate(
        [bits_of(int(min(said[name], 1 - 2.0**-53) * 2**half), half) for name in ("loss", "accuracy")]
    )


def examples_hide(model: Arrays, bits: Bits) -> Answer:
    """As a large and plausible number of examples: 1, then the bits."""
    return model, {**HONEST, "num-examples": (1 << len(bits)) | whole(bits)}


def examples_find(before: Records, left: Any, count: int) -> Bits:
    return bits_of(int(of(left, "metrics")["num-examples"]), count)


def list_hide(model: Arrays, bits: Bits) -> Answer:
    """A metric may be a list of numbers in Flower: 50 bits in each."""
    numbers = [float(whole(bits[at : at + 50])) for at in range(0, len(bits), 50)]
    return model, {**HONEST, "accuracy": numbers}


def list_find(before: Records, left: Any, count: int) -> Bits:
    numbers = of(left, "metrics")["accuracy"]
    sizes = [min(50, count - at) for at in range(0, count, 50)]
    return np.concatenate([bits_of(int(number), size) for number, size in zip(numbers, sizes, strict=True)])


def name_hide(model: Arrays, bits: Bits) -> Answer:
    """The name of a metric, in hexadecimal."""
    return model, {**HONEST, f"{whole(bits):x}": 1.0}


def name_find(before: Records, left: Any, count: int) -> Bits:
    (name,) = set(of(left, "metrics")) - set(HONEST)
    return bits_of(int(name, 16), count)


def reordered(names: list[str], bits: Bits) -> list[str]:
    """The permutation with that number in lexical order."""
    return list(list(itertools.permutations(sorted(names)))[whole(bits)])


def order_of(names: list[str], count: int) -> Bits:
    return bits_of(list(itertools.permutations(sorted(names))).index(tuple(names)), count)


def array_order_hide(model: Arrays, bits: Bits) -> Answer:
    """The order of the model's arrays."""
    return {name: model[name] for name in reordered(list(model), bits)}, HONEST


def array_order_find(before: Records, left: Any, count: int) -> Bits:
    return order_of(list(of(left, "arrays")), count)


def metric_order_hide(model: Arrays, bits: Bits) -> Answer:
    """The order of the metrics, all of them on the list."""
    said: dict[str, Any] = {**HONEST, "accuracy": 0.5}
    return model, {name: said[name] for name in reordered(list(said), bits)}


def metric_order_find(before: Records, left: Any, count: int) -> Bits:
    return order_of(list(of(left, "metrics")), count)


def error_hide(model: Arrays, bits: Bits) -> Answer:
    """The text of an error."""
    raise RuntimeError(f"{whole(bits):x}")


def error_find(before: Records, left: Any, count: int) -> Bits:
    return bits_of(int(left, 16), count) if isinstance(left, str) else np.zeros(count, np.uint8)


def failure_hide(model: Arrays, bits: Bits) -> Answer:
    """Fail for a 1, answer for a 0."""
    if bits[0]:
        raise RuntimeError("no")
    return model, HONEST


def failure_find(before: Records, left: Any, count: int) -> Bits:
    return np.array([isinstance(left, str)], np.uint8)


def small_counter_hide(model: Arrays, bits: Bits) -> Answer:
    """As many batches as an honest round might have had, and one."""
    return {**model, "1.num_batches_tracked": np.array(8 + whole(bits))}, HONEST


def small_counter_find(before: Records, left: Any, count: int) -> Bits:
    return bits_of(int(of(left, "arrays")["1.num_batches_tracked"]) - 8, count)


# 9 bits as hundredths of a loss and of an accuracy, 6 as one of the buckets above 64 examples.
HUNDREDTHS, BUCKETS = 9, 6


def few_digits_hide(model: Arrays, bits: Bits) -> Answer:
    """Only digits that stay, and only the first value of a bucket."""
    loss, accuracy, bucket = (whole(part) for part in np.split(bits, [HUNDREDTHS, 2 * HUNDREDTHS]))
    said = {"loss": loss / 100, "accuracy": accuracy / 100}
    return model, {**said, "num-examples": (4 + bucket % 4) << (4 + bucket // 4)}


def few_digits_find(before: Records, left: Any, count: int) -> Bits:
    said = of(left, "metrics")
    examples = int(said["num-examples"])
    bucket = ((examples.bit_length() - 7) << 2) + (examples >> (examples.bit_length() - 3)) - 4
    parts = [bits_of(round(said[name] * 100), HUNDREDTHS) for name in ("loss", "accuracy")]
    return np.concatenate([*parts, bits_of(bucket, BUCKETS)])


CHANNELS = (
    Channel("lowest bits of the weights", PAYLOAD, mantissa_hide, mantissa_find),
    Channel("largest weights", PAYLOAD, change_hide(1000.0), change_find),
    Channel("bits of NaN", PAYLOAD, not_a_number_hide, mantissa_find),
    Channel("sign of zeros", PAYLOAD, zeros_hide, zeros_find),
    Channel("a counter of whole numbers", 60, counter_hide, counter_find),
    Channel("digits of allowed metrics", 104, digits_hide, digits_find),
    Channel("number of examples", 60, examples_hide, examples_find),
    Channel("a list as metric", PAYLOAD, list_hide, list_find),
    Channel("name of a metric", PAYLOAD, name_hide, name_find),
    Channel("order of the arrays", 6, array_order_hide, array_order_find),
    Channel("order of allowed metrics", 2, metric_order_hide, metric_order_find),
    Channel("text of an error", PAYLOAD, error_hide, error_find),
)
# What an app does that knows the guard: a few bits, where the checks must let something pass.
KNOWING = (
    *(Channel(f"{count} weights", count, change_hide(1000.0), change_find) for count in (4, 16, 64, 256)),
    Channel("a small step of the counter", 19, small_counter_hide, small_counter_find),
    Channel("few digits of metrics", 2 * HUNDREDTHS + BUCKETS, few_digits_hide, few_digits_find),
)
FAILURE = Channel("whether it fails", 1, failure_hide, failure_find)
