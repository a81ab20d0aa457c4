# SPDX-License-Identifier: Apache-2.0
"""Measures what the guard's defaults cost and what they stop, and prints the tables of docs/privacy.md.

`python tests/bench/privacy_defaults.py [--quick]`; seeds are fixed, one thread, nothing is written.
Accuracy comes from examples/digits as it is (its train(), its split) and the guard's own mechanism.
May import: all of the guard, the example, scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("daemon", "tests", "examples/digits")]

from bench import reconstruction as attacks  # noqa: E402
from bench.reconstruction import Floats, Gradient, Matching, Verdict  # noqa: E402
from homebound.guard import privacy  # noqa: E402
from homebound.settings import GuardSettings  # noqa: E402

# The example is an app, not a package of ours: it has no types that we could check against.
task: Any = importlib.import_module("digits.task")
make_data: Any = importlib.import_module("make_data")

DEFAULT = GuardSettings()
CLIP_ONLY = replace(DEFAULT, noise_multiplier=0.0)
ROUNDS, DELTA, SPREAD = 3, 1e-5, 1.0
LOCAL = {"epochs": 5, "lr": 0.1, "batch_size": 64}  # as in examples/digits/pyproject.toml


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    trials: int
    seeds: int
    noises: tuple[float, ...]
    runs: tuple[tuple[float, int, float], ...]  # spread, devices, noise
    matching: Matching


QUICK = Size(40, 5, (0.1,), ((1.0, 2, 0.0), (1.0, 2, 0.1), (1.0, 8, 0.2)), Matching(steps=300, restarts=1))
FULL = Size(
    200,
    20,
    (0.01, 0.03, 0.05, 0.1, 0.2, 0.5),
    (
        *((1.0, 2, noise) for noise in (0.0, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2)),
        *((0.5, 2, noise) for noise in (0.0, 0.05, 0.1)),
        *((2.0, 2, noise) for noise in (0.0, 0.1, 0.12)),
        *((1.0, devices, 0.1) for devices in (3, 5, 8)),
        *((1.0, devices, 0.15) for devices in (3, 4, 5)),
        *((1.0, devices, 0.2) for devices in (5, 8, 10, 12)),
    ),
    Matching(),
)


def guard_with(noise: float, bits: int = DEFAULT.quantum_bits) -> GuardSettings:
    return replace(DEFAULT, noise_multiplier=noise, quantum_bits=bits)


# Accuracy ---------------------------------------------------------------------------------------------


def split(devices: int, seed: int, spread: float) -> list[Any]:
    """The example's own split by label; a larger ``spread`` (Dirichlet concentration) is milder."""
    as_shipped = make_data.CONCENTRATION
    make_data.CONCENTRATION = spread
    parts: list[Any] = make_data.split(task.load_sklearn(test=False)[1], devices, seed)
    make_data.CONCENTRATION = as_shipped
    return parts


def accuracy(seed: int, devices: int, guard: GuardSettings, spread: float = SPREAD, again: int = 0) -> float:
    """Accuracy on the held-out fifth after three rounds of FedAvg, weighed by num-examples.

    ``seed`` is that of split, order and noise; ``again`` draws other noise for the same split and order.
    """
    x, y = task.load_sklearn(test=False)
    parts = split(devices, seed, spread)
    draw = np.random.default_rng([seed, again] if again else seed)
    weights: Floats = np.zeros(task.Net().head.weight.shape)
    for _ in range(ROUNDS):
        total = np.zeros_like(weights)
        for part in parts:
            model = with_weights(weights)
            # Fewer records a device are fewer steps; so that all take about as many as two devices do:
            local = {**LOCAL, "epochs": LOCAL["epochs"] * max(1, devices // 2)}
            task.train(model, (x[part], y[part]), seed=seed, **local)
            start = weights.astype(np.float32)
            given = model.head.weight.detach().numpy()
            norm, how = privacy.measure([(start, given)]), privacy.mechanism(guard)
            total += len(part) / len(y) * privacy.privatise(start, given, norm, how, draw.standard_normal)
        weights = total
    return float(task.evaluate(with_weights(weights), task.load_sklearn(test=True))[1])


def with_weights(weights: Floats) -> Any:
    model = task.Net()
    model.head.weight.data = torch.from_numpy(weights.astype(np.float32))
    return model


def print_accuracy(size: Size) -> None:
    """Over several ways to split the records, each with its own training order and noise."""
    print(f"\nAccuracy over {size.seeds} splits. Spread: Dirichlet concentration by label, larger is milder.")
    print(
        "\n| devices | spread | noise | median | worst | share of runs >= 0.90 |\n|---|---|---|---|---|---|"
    )
    for spread, devices, noise in size.runs:
        found = [accuracy(s, devices, guard_with(noise), spread) for s in range(1, size.seeds + 1)]
        share = np.mean([a >= 0.9 for a in found])
        line = f"{devices} | {spread} | {noise} | {np.median(found):.3f} | {min(found):.3f} | {share:.0%}"
        print(f"| {line} |", flush=True)


def print_repeated(size: Size) -> None:
    """One split (seed 1, two devices) with ever new noise: what a person who repeats the example sees."""
    print(
        "\n| spread | records | noise | median | worst | share of runs >= 0.90 |\n|---|---|---|---|---|---|"
    )
    for spread in (0.5, 1.0, 2.0):
        counts = " and ".join(str(len(part)) for part in split(2, 1, spread))
        for noise in (0.08, DEFAULT.noise_multiplier):
            runs = range(1, 5 * size.seeds + 1)
            found = [accuracy(1, 2, guard_with(noise), spread, again) for again in runs]
            share = np.mean([a >= 0.9 for a in found])
            line = f"{spread} | {counts} | {noise} | {np.median(found):.3f} | {min(found):.3f} | {share:.0%}"
            print(f"| {line} |", flush=True)


# Attacks on one step over few records -----------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Targets of all trials and what is close to them.

    x [t, b, 64], y [t, b]; chance [t, b]: each target's distance to the nearest other record of its device.
    """

    x: torch.Tensor
    y: torch.Tensor
    chance: torch.Tensor


def own_and_public() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Records of one device (half of all that is not held out) and records that nobody trained on."""
    x, y = map(torch.from_numpy, task.load_sklearn(test=False))
    px, py = map(torch.from_numpy, task.load_sklearn(test=True))
    half = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))[: len(y) // 2]
    return (x[half], y[half]), (px, py)


def scene(own: tuple[torch.Tensor, torch.Tensor], trials: int, records: int, seed: int) -> Scene:
    """Each trial draws ``records`` records of different labels: the easiest case for the attacker."""
    draw = np.random.default_rng(seed)
    members = [np.flatnonzero(own[1].numpy() == label) for label in range(attacks.CLASSES)]
    chosen = torch.from_numpy(
        np.array(
            [
                [draw.choice(members[label]) for label in draw.permutation(attacks.CLASSES)[:records]]
                for _ in range(trials)
            ]
        )
    )
    x, y = own[0][chosen], own[1][chosen]
    apart = attacks.distances(x.reshape(-1, attacks.PIXELS), own[0])
    apart[torch.arange(len(apart)), chosen.flatten()] = math.inf
    return Scene(x, y, apart.min(dim=1).values.view(trials, records))


def victims() -> dict[str, Gradient]:
    net = task.Net()
    net.centre_on(own_and_public()[1][0])
    return {
        "linear": attacks.linear_gradient,
        "hidden": attacks.hidden_gradient(5),
        "example": attacks.example_gradient(net, task.SHARPNESS),
    }


def attempt(
    name: str, gradient: Gradient, way: str, where: Scene, guard: GuardSettings | None, how: Matching
) -> Verdict:
    """One attack on one model under one guard."""
    bound = math.inf if guard is None else guard.clip_norm
    released = attacks.release(-attacks.STEEP * gradient(where.x, where.y), guard, np.random.default_rng(11))
    if way == "matching":
        rebuilt = attacks.match(gradient, released, where.y, bound, how, 13)
    elif where.y.shape[1] == 1:
        rows = attacks.HIDDEN if name == "hidden" else attacks.CLASSES
        rebuilt = attacks.analytic(released, rows)[:, None]
    else:
        rebuilt = attacks.analytic_batch(released, where.y)
    return attacks.judge(((rebuilt - where.x) ** 2).mean(dim=2), where.chance)


CASES = (
    ("linear", "analytic", 1), ("linear", "matching", 1),
    ("linear", "analytic", 8), ("linear", "matching", 8),
    ("hidden", "analytic", 1), ("hidden", "matching", 1), ("hidden", "matching", 8),
    ("example", "matching", 1), ("example", "matching", 8),
)  # fmt: skip


def print_attacks(size: Size) -> bool:
    """One step over 1 or 8 records. True if the open case is rebuilt and the default case is not."""
    own, _ = own_and_public()
    guards: list[tuple[str, GuardSettings | None]] = [("off", None), ("clip only", CLIP_ONLY)]
    guards += [(f"noise {noise}", guard_with(noise)) for noise in size.noises]
    print(f"\n| model | attack | records | {' | '.join(name for name, _ in guards)} | chance |")
    print("|---" * (len(guards) + 4) + "|")
    right = True
    for name, way, records in CASES:
        where = scene(own, size.trials if records == 1 else max(10, size.trials // 4), records, 7)
        cells = []
        for label, guard in guards:
            found = attempt(name, victims()[name], way, where, guard, size.matching)
            cells.append(cell(found))
            must_win = guard is None and name != "example"
            right &= not must_win or found.beats_chance
            right &= label != f"noise {DEFAULT.noise_multiplier}" or not found.beats_chance
        chance = float(where.chance.median())
        print(f"| {name} | {way} | {records} | {' | '.join(cells)} | {chance:.4f} |", flush=True)
    return right


# Records of the device and releases made from them, for the informed attacker.
FEW = ((1, 1), (1, 3), (2, 1), (2, 3), (8, 1), (8, 3))


def cell(found: Verdict) -> str:
    mark = "**" if found.beats_chance else ""
    return f"{mark}{found.attack:.4f} ({found.wins:.0%}){mark}"


def print_informed(size: Size) -> None:
    """An attacker who also knows other people's pictures; a device that trains on the same few records."""
    own, public = own_and_public()
    heads = [
        f"{records} record{'s'[: records > 1]}, {releases} release{'s'[: releases > 1]}"
        for records, releases in FEW
    ]
    print(f"\n| noise | {' | '.join(heads)} | picked from a list |\n" + "|---" * (len(FEW) + 2) + "|")
    for noise in sorted({*size.noises, 0.15, 1e6}):
        guard, cells = guard_with(noise), []
        for records, releases in FEW:
            where = scene(own, max(10, size.trials // records), records, 7)
            change = -attacks.STEEP * attacks.linear_gradient(where.x, where.y)
            draw = np.random.default_rng(11)
            mean = torch.stack([attacks.release(change, guard, draw) for _ in range(releases)]).mean(dim=0)
            sigma = noise * guard.clip_norm / releases**0.5
            rebuilt = attacks.informed(mean, where.x, where.y, sigma, guard.clip_norm, public)
            cells.append(cell(attacks.judge(((rebuilt - where.x) ** 2).mean(dim=2), where.chance)))
        alone = scene(own, size.trials, 1, 7)
        released = attacks.release(
            -attacks.STEEP * attacks.linear_gradient(alone.x, alone.y), guard, np.random.default_rng(17)
        )
        picked = identified(released, alone, own, guard.clip_norm)
        print(f"| {'no update' if noise > 1e3 else noise} | {' | '.join(cells)} | {picked:.0%} |", flush=True)


def identified(
    released: torch.Tensor, where: Scene, own: tuple[torch.Tensor, torch.Tensor], bound: float
) -> float:
    """How often the right one of all records of the label is picked by an attacker who has the list."""
    hits = 0
    for row, x, y in zip(released, where.x, where.y, strict=True):
        listed = own[0][own[1] == y[0]][:, None]
        guesses = attacks.clipped(
            -attacks.STEEP * attacks.linear_gradient(listed, y.expand(len(listed), 1)), bound
        )
        hits += bool(torch.equal(listed[((guesses - row) ** 2).sum(dim=1).argmin()], x))
    return hits / len(released)


# Attacks on an ordinary round -------------------------------------------------------------------------


def print_ordinary(size: Size) -> None:
    """A round as the example runs it: hundreds of records, many steps; ten pictures rebuilt, one a label."""
    x, y = task.load_sklearn(test=False)
    held_out = torch.from_numpy(task.load_sklearn(test=True)[0])
    labels = torch.arange(attacks.CLASSES)[None]
    print("\n| guard | rebuilt, to the nearest record | chance: held-out, to the same |\n|---|---|---|")
    for name, guard in (("off", None), ("clip only", CLIP_ONLY), ("default", DEFAULT)):
        mine, others = [], []
        for seed in range(1, 1 + max(2, size.seeds // 4)):
            for part in split(2, seed, SPREAD):
                model = task.Net()
                task.train(model, (x[part], y[part]), seed=seed, **LOCAL)
                change = model.head.weight.detach().flatten()[None]
                released = attacks.release(change, guard, np.random.default_rng(seed))
                # Without a guard the attacker brings the step to length 1: only its direction is matched.
                aim = released if guard else attacks.clipped(released * attacks.STEEP, 1.0)
                rebuilt = attacks.match(victims()["example"], aim, labels, 1.0, size.matching, seed)[0]
                records = torch.from_numpy(x[part])
                mine.append(attacks.distances(rebuilt, records).min(dim=1).values)
                others.append(attacks.distances(held_out, records).min(dim=1).values)
        found = attacks.judge(torch.cat(mine), torch.cat(others), paired=False)
        print(f"| {name} | {cell(found)} | {found.chance:.4f} |", flush=True)


# Sums -------------------------------------------------------------------------------------------------


def epsilon(noise: float, rounds: int = ROUNDS) -> float:
    """Of one device that adds its whole update or not, at delta 1e-5.

    Exact for the Gaussian mechanism (Balle and Wang 2018, theorem 8; rounds add up in the deviation).
    """
    mu = math.sqrt(rounds) / noise

    def excess(value: float) -> float:
        tail = value + stats.norm.logcdf(-mu / 2 - value / mu)
        return float(stats.norm.cdf(mu / 2 - value / mu) - math.exp(tail) - DELTA)

    return float(optimize.brentq(excess, 0.0, mu**2 / 2 + 10 * mu))


def accountant_epsilon(noise: float) -> str:
    """The same by dp-accounting, if that is installed; a check of the formula."""
    try:
        dp, pld = importlib.import_module("dp_accounting"), importlib.import_module("dp_accounting.pld")
    except ImportError:
        return "not installed"
    accountant = pld.PLDAccountant(value_discretization_interval=1e-2)
    accountant.compose(dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), ROUNDS))
    return f"{accountant.get_epsilon(DELTA):.1f}"


def bits(noise: float, parameters: float = math.inf) -> float:
    """The most that one release can say about the data, whatever the app does: capacity of the noise."""
    if math.isinf(parameters):
        return 1 / (2 * noise**2 * math.log(2))
    return parameters / 2 * math.log2(1 + 1 / (parameters * noise**2))


def print_sums() -> None:
    print("\n| noise | epsilon, 3 rounds, delta 1e-5 | dp-accounting | bits a release, at most |")
    print("|---|---|---|---|")
    for noise in (0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0):
        print(
            f"| {noise} | {epsilon(noise):.1f} | {accountant_epsilon(noise)} | {bits(noise):.1f} |",
            flush=True,
        )


def print_clip_and_quantum(size: Size) -> None:
    """The two settings that matter little: the clip norm (noise grows with it) and the grid."""
    where = scene(own_and_public()[0], size.trials, 1, 7)
    tried = [(f"clip_norm {norm}", replace(DEFAULT, clip_norm=norm)) for norm in (0.25, 0.5, 1.0, 2.0, 4.0)]
    tried += [(f"quantum_bits {count}", replace(DEFAULT, quantum_bits=count)) for count in (2, 4, 8, 16)]
    print("\n| setting | accuracy, median | worst | analytic, linear, 1 record |\n|---|---|---|---|")
    for name, guard in tried:
        found = [accuracy(seed, 2, guard) for seed in range(1, size.seeds + 1)]
        attack = attempt("linear", attacks.linear_gradient, "analytic", where, guard, size.matching)
        print(f"| {name} | {np.median(found):.3f} | {min(found):.3f} | {cell(attack)} |", flush=True)


def main() -> int:
    """Print all tables; status 1 if the attacks do not work unguarded or do work against the defaults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer trials, under a minute")
    size = QUICK if parser.parse_args().quick else FULL
    torch.set_num_threads(1)
    began = time.monotonic()
    print_accuracy(size)
    print_repeated(size)
    right = print_attacks(size)
    print_informed(size)
    print_ordinary(size)
    print_clip_and_quantum(size)
    print_sums()
    print(f"\n{time.monotonic() - began:.0f} s; {'as documented' if right else 'NOT as documented'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
