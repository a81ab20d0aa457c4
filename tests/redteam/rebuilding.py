# SPDX-License-Identifier: Apache-2.0
"""A hostile federation: models built to copy records into an update, and searches for what made an update.

The app is honest here: one step of SGD on its own records. Pixels lie in 0..1. Attacks on released updates
that need no special model are in bench.reconstruction, which this rests on. May import: all of homebound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from bench import reconstruction as attacks
from bench.reconstruction import Gradient, Verdict
from homebound.guard import models, privacy, release
from homebound.guard.checks import Refusal
from homebound.guard.noise import gaussian
from homebound.guard.release import Release, Task
from homebound.records import Record, Records
from homebound.settings import GuardSettings

PIXELS, ROWS, CLASSES = 64, 256, 10
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
# So large that the change is longer than the clip norm: the least noise for the most signal.
RATE = 100.0
# As good as the record itself, to the eye.
SAME_DB = 30.0


def halves() -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Records and labels that devices have, and records of other people that anybody may know."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(y))
    pictures, labels = torch.from_numpy(x[order] / 16).float(), torch.from_numpy(y[order]).long()
    return (pictures[:900], labels[:900]), pictures[900:]


def digits(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Records of a device."""
    x, y = halves()[0]
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(y))[:count])
    return x[chosen], y[chosen]


def strangers() -> Tensor:
    return halves()[1]


def imprint(disguise: float = 0.0) -> Records:
    """A network whose first layer sorts records by brightness into ROWS bins (Fowl et al. 2022).

    ``disguise``: relative deviation of random numbers on the rows.
    """
    draw = np.random.default_rng(3)
    weights = np.full((ROWS, PIXELS), 1 / PIXELS) * (1 + disguise * draw.standard_normal((ROWS, PIXELS)))
    brightness = strangers().mean(dim=1).numpy()
    biases = -np.quantile(brightness, np.linspace(0.002, 0.998, ROWS))
    # Every unit acts on the loss in the same way, so that neighbours differ by their bins alone.
    second = np.tile(draw.standard_normal((CLASSES, 1)) / ROWS, (1, ROWS))
    arrays = tuple(a.astype(np.float32) for a in (weights, biases, second, np.zeros(CLASSES)))
    return (Record("arrays", "arrays", NAMES, arrays),)


def trained(model: Records, x: Tensor, y: Tensor) -> Records:
    """One step of SGD of an honest app on all its records."""
    arrays = [torch.from_numpy(array.copy()).requires_grad_() for array in model[0].values]
    hidden = functional.relu(functional.linear(x, arrays[0], arrays[1]))
    loss = functional.cross_entropy(functional.linear(hidden, arrays[2], arrays[3]), y)
    gradients = torch.autograd.grad(loss, arrays)
    after = tuple((a.detach() - RATE * g).numpy() for a, g in zip(arrays, gradients, strict=True))
    metrics = Record("metrics", "metrics", ("loss", "num-examples"), (0.5, len(y)))
    return (Record("arrays", "arrays", NAMES, after), metrics)


def binned(before: Records, after: Records) -> Tensor:
    """One picture for each bin: difference of two neighbouring rows' changes over that of their biases."""
    weights, biases = (
        torch.from_numpy(new.astype(np.float64) - old.astype(np.float64))
        for old, new in zip(before[0].values[:2], after[0].values[:2], strict=True)
    )
    over = biases[:-1] - biases[1:]
    pictures = (weights[:-1] - weights[1:]) / torch.where(over.abs() < 1e-12, math.inf, over)[:, None]
    return pictures.clamp(0, 1).float()


@dataclass(frozen=True)
class Copied:
    """``refused``: the guard would not begin. ``share`` of the records that came out as themselves; the
    ``best`` picture of each record in dB, median; ``chance``: the same for pictures of other people."""

    refused: bool
    share: float
    best: float
    chance: float


def copy_records(guard: GuardSettings | None, count: int, disguise: float = 0.0, seed: int = 1) -> Copied:
    """The imprint against a device with ``count`` records. A refusal is noted, and the attack goes on as if
    the federation had found a disguise that passes."""
    x, y = digits(count, seed)
    model = imprint(disguise)
    update = trained(model, x, y)
    refused = False
    if guard is not None:
        refused = is_refused(model)
        update = judged(model, update, guard, seed)
    found = psnr(x, binned(model, update))
    return Copied(
        refused,
        float((found > SAME_DB).float().mean()),
        float(found.median()),
        float(psnr(x, strangers()).median()),
    )


def is_refused(model: Records) -> bool:
    """Whether the guard sees what the model is."""
    try:
        models.check_model(model)
    except Refusal:
        return True
    return False


def judged(model: Records, update: Records, guard: GuardSettings, seed: int) -> Records:
    """What leaves of an honest app's update."""
    draw = np.random.default_rng([9, seed])
    noise: privacy.Noise = lambda count: gaussian(count, draw.bytes)  # noqa: E731
    decision = release.decide(Task("t", "r", 1, "train", model), update, guard, noise)
    assert isinstance(decision, Release)
    return decision.records


def psnr(records: Tensor, pictures: Tensor) -> Tensor:
    """For each record the best picture, in dB."""
    return -10 * torch.log10(attacks.distances(records, pictures).min(dim=1).values.clamp(min=1e-10))


# Searches on a release of one record --------------------------------------------------------------------


def label_of(released: Tensor) -> Tensor:
    """iDLG (Zhao et al. 2020): the label's bias in the last layer is the one that rises. [trials]"""
    return released[:, -CLASSES:].argmax(dim=1)


def invert(gradient: Gradient, released: Tensor, y: Tensor, steps: int, seed: int) -> Tensor:
    """Inverting gradients (Geiping et al. 2020): Adam on the cosine and the total variation. [t, 1, 64]"""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(len(y), 1, PIXELS, generator=draw).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        likeness = functional.cosine_similarity(-gradient(x, y), released, dim=1)
        picture = x.view(-1, 8, 8)
        rough = (
            picture.diff(dim=1).abs().mean(dim=(1, 2)) + picture.diff(dim=2).abs().mean(dim=(1, 2))
        ).sum()
        torch.autograd.backward((1 - likeness).sum() + 1e-3 * rough)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach()


@dataclass(frozen=True)
class Searched:
    """Labels guessed right, and each search for the record against chance."""

    labels: float
    searches: dict[str, Verdict]


def search(guard: GuardSettings | None, trials: int, steps: int) -> Searched:
    """A device with one record, a step longer than the clip norm, a network with 32 hidden units."""
    gradient = attacks.hidden_gradient(5)
    x, y = digits(trials, 2)
    x, y = x[:, None], y[:, None]
    released = attacks.release(-attacks.STEEP * gradient(x, y), guard, np.random.default_rng(11))
    bound = math.inf if guard is None else guard.clip_norm
    guessed = label_of(released)
    apart = attacks.distances(x[:, 0], strangers()).min(dim=1).values
    how = attacks.Matching(steps=steps, restarts=1)
    found = {
        "analytic": attacks.analytic(released, attacks.HIDDEN),
        "DLG": attacks.match(gradient, released, y, bound, how, 4)[:, 0],
        "iDLG": attacks.match(gradient, released, guessed[:, None], bound, how, 4)[:, 0],
        "inverting": invert(gradient, released, y, steps, 4)[:, 0],
    }
    errors = {name: ((pictures - x[:, 0]) ** 2).mean(dim=1) for name, pictures in found.items()}
    verdicts = {name: attacks.judge(error, apart) for name, error in errors.items()}
    return Searched(float((guessed == y[:, 0]).float().mean()), verdicts)
