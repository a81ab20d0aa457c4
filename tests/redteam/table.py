# SPDX-License-Identifier: Apache-2.0
"""Prints docs/redteam.md: `python tests/redteam/table.py >docs/redteam.md`. Fixed seeds, one thread, seconds.

May import: all of homebound, the red team.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("daemon", "tests")]

from homebound.guard import bits  # noqa: E402
from homebound.settings import GuardSettings, TrainerSettings  # noqa: E402
from redteam import hiding, rebuilding  # noqa: E402

SHIPPED = GuardSettings()
LOUD = replace(SHIPPED, noise_multiplier=1.0)
CLIP_ONLY = replace(SHIPPED, noise_multiplier=0.0, quantum_bits=32)
GUARDS = {"off": None, "clip only": CLIP_ONLY, "shipped": SHIPPED, "noise 1": LOUD}
ROUNDS, TRIALS, STEPS = 100, 100, 300

HEAD = f"""# Red team

Made by `python tests/redteam/table.py`; do not edit. The same attacks run in `make test` (tests/redteam).
*Shipped* is the guard with its default settings: clip norm {SHIPPED.clip_norm:g}, noise
{SHIPPED.noise_multiplier:g}. Nothing here is a proof; the bounds in the last table are, for the ways that
they name.
"""
HIDING = """
## A hostile app hides records

A Flower ClientApp writes raw records of scikit-learn's digits into one place of its answer; somebody
outside, who knows how, reads them. The bits are whitened, so 50 % right is what a coin gives. *Bits
passed* is the information that one round carried (mean over {rounds} rounds, by the error rate of each
bit). Where the guard refuses, nothing passes but the refusal.

| where | bits hidden | off: right | shipped: right | bits passed | noise 1: right | bits passed |
|---|---|---|---|---|---|---|"""
KNOWING = """
The payload as a whole is lost everywhere. But an app that knows the guard can hide *less* where it must
let something pass: each bit in one weight, as strong as the clip norm allows; in the step of a counter; in
the digits that stay.

| where | bits hidden | off: right | shipped: right | bits passed | noise 1: right | bits passed |
|---|---|---|---|---|---|---|"""
WHOLE = """
Ways without a row: that a round fails, and when its answer comes, pass any guard (the tests show both).
The bounds below count them.
"""
COPYING = """
## A hostile federation builds the model

The first layer of the model sorts records by brightness into {rows} bins; the difference of two
neighbours is the record in the bin. The app is honest and takes one long step over all its records.
*Copied* is the share of records that come out with more than {same:g} dB; *best* is the nearest picture
to each record, median; *strangers* is how near other people's pictures are. *Disguised* has 5 % random
numbers on the rows, which the look at the model does not see. The other columns go on as if the model had
passed.

| model | records | refused | off: copied, best | clip only | shipped | strangers |
|---|---|---|---|---|---|---|"""
SEARCHING = """
## A federation searches for the record behind an update

A device with a single record, one step, a network with 32 hidden units; {trials} trials. Error of the
rebuilt picture in dB (median), and in brackets how often it is nearer to the record than the nearest
picture of other people. With the shipped guard such an update is refused besides, unless the app says
that it had {least} examples.

| attack | off | clip only | shipped | noise 1 |
|---|---|---|---|---|"""
BOUND = """
## What is left: bits in one answer

For any app, with any code. Weights: capacity of the noise. Metrics: the number of their values. Counters:
whole numbers such as BatchNorm's, {counters:.0f} bits for the model of these tests; a model without them
has none. Time: told apart to a millisecond within `trainer.round_timeout_seconds`.

| noise | weights | metrics | counters | refusal | time | together |
|---|---|---|---|---|---|---|"""
END = """
Trained models are not the only answers: one to an evaluation has no weights and costs no epsilon, but can
say what metrics, refusal and time can. `guard.epsilon_limit` bounds how many answers have weights:
{answers} at the shipped settings, {whole:.0f} kilobits in all of them together. A picture of 320 bits takes
three answers of an app that was made for that. `homebound release --dry-run` prints these figures for a
model of your own.
"""


def hidden(folder: Path, channels: tuple[hiding.Channel, ...]) -> Iterator[str]:
    for channel in channels:
        off = hiding.measure(channel, folder, None, 4)
        on, loud = (hiding.measure(channel, folder, guard, ROUNDS) for guard in (SHIPPED, LOUD))
        cells = [channel.name, str(channel.bits), f"{off.right:.0%}"]
        for found in (on, loud):
            cells += [f"{found.right:.0%}", f"{found.passed:.1f}"]
        yield row(cells)


def copied() -> Iterator[str]:
    for disguise in (0.0, 0.05):
        for count in (64, 288):
            off, clip, on = (
                rebuilding.copy_records(guard, count, disguise) for guard in (None, CLIP_ONLY, SHIPPED)
            )
            cells = ["disguised" if disguise else "plain", str(count), "yes" if on.refused else "no"]
            cells += [f"{found.share:.0%}, {found.best:.0f} dB" for found in (off, clip, on)]
            yield row([*cells, f"{on.chance:.0f} dB"])


def searched() -> Iterator[str]:
    found = [rebuilding.search(guard, TRIALS, STEPS) for guard in GUARDS.values()]
    for name in found[0].searches:
        verdicts = [one.searches[name] for one in found]
        yield row([name, *(f"{verdict.psnr:.0f} dB ({verdict.wins:.0%})" for verdict in verdicts)])
    yield row(["label of the record, guessed", *(f"{one.labels:.0%}" for one in found)])


def rest() -> list[float]:
    """Bits of all ways but the weights."""
    metrics = sum(bits.metric(name, digits) for name, digits in SHIPPED.metrics.items())
    timing = bits.timing(TrainerSettings().round_timeout_seconds)
    return [metrics, bits.counters(hiding.start()), bits.REFUSAL_BITS, timing]


def bounds() -> Iterator[str]:
    numbers = bits.noised(hiding.start())
    for noise in (0.05, SHIPPED.noise_multiplier, 0.2, 0.5, 1.0):
        weights = bits.weights(numbers, replace(SHIPPED, noise_multiplier=noise))
        yield row([f"{noise:g}", *(f"{value:.1f}" for value in (weights, *rest(), weights + sum(rest())))])


def answers() -> int:
    """How many answers to training tasks fit into the shipped limit."""
    from homebound.guard import budget

    one = budget.cost(SHIPPED)
    count = 0
    while budget.affords(budget.Tally(count * one, {}), "r", replace(SHIPPED, run_epsilon_limit=0.0)):
        count += 1
    return count


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def document(folder: Path) -> Iterator[str]:
    """The lines of docs/redteam.md."""
    yield from (HEAD, HIDING.format(rounds=ROUNDS).strip("\n"), *hidden(folder, hiding.CHANNELS))
    yield from (KNOWING, *hidden(folder, hiding.KNOWING), WHOLE.rstrip("\n"))
    yield from (COPYING.format(rows=rebuilding.ROWS, same=rebuilding.SAME_DB), *copied())
    yield from (SEARCHING.format(trials=TRIALS, least=SHIPPED.min_examples), *searched())
    yield from (BOUND.format(counters=bits.counters(hiding.start())), *bounds())
    everything = bits.weights(bits.noised(hiding.start()), SHIPPED) + sum(rest())
    yield END.format(answers=answers(), whole=answers() * everything / 1000).rstrip("\n")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, hiding.FILE), load_digits().data[: hiding.RECORDS])
        for line in document(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
