# SPDX-License-Identifier: Apache-2.0
"""Attacks that rebuild training records from a released update, and the test whether they beat chance.

The attacker knows the model, its weights before, the labels, the learning rate, the clip norm, and the
release. All trials run side by side: x is [trials, records, 64 pixels], y is [trials, records].
Sees scikit-learn's digits and nothing else. May import: numpy, scipy, torch, homebound.guard, settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional

from homebound.guard import privacy
from homebound.settings import GuardSettings

CLASSES, PIXELS, HIDDEN = 10, 64, 32
# So large that a single step is always longer than the clip norm: the least noise for the most signal.
STEEP = 100.0
# Records, labels -> gradient of the mean loss, [trials, parameters].
Gradient = Callable[[Tensor, Tensor], Tensor]
Floats = NDArray[np.float64]


def errors_at_zero(y: Tensor) -> Tensor:
    """Softmax minus one-hot label when all logits are 0: [trials, records, classes]."""
    return 1.0 / CLASSES - functional.one_hot(y, CLASSES).float()


def linear_gradient(x: Tensor, y: Tensor) -> Tensor:
    """Softmax regression on raw pixels from zero weights: rows of weights, then biases. 650 numbers."""
    errors = errors_at_zero(y) / y.shape[1]
    weights = torch.einsum("tbk,tbd->tkd", errors, x)
    return torch.cat((weights.flatten(1), errors.sum(dim=1)), dim=1)


def hidden_gradient(seed: int) -> Gradient:
    """A network 64 -> 32 (tanh) -> 10 with usual random weights; the first layer's gradient comes first."""
    draw = torch.Generator().manual_seed(seed)
    first = (torch.rand(HIDDEN, PIXELS, generator=draw) * 2 - 1) / PIXELS**0.5
    second = (torch.rand(CLASSES, HIDDEN, generator=draw) * 2 - 1) / HIDDEN**0.5

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(x @ first.T)
        errors = torch.softmax(hidden @ second.T, dim=2) - functional.one_hot(y, CLASSES).float()
        errors = errors / y.shape[1]
        back = (errors @ second) * (1 - hidden**2)
        layers = (torch.einsum("tbh,tbd->thd", back, x), torch.einsum("tbk,tbh->tkh", errors, hidden))
        sums = (back.sum(dim=1), errors.sum(dim=1))
        return torch.cat((layers[0].flatten(1), sums[0], layers[1].flatten(1), sums[1]), dim=1)

    return gradient


def example_gradient(net: Any, sharpness: float) -> Gradient:
    """The model of examples/digits from its zero weights, with a centre that the attacker knows."""

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        features = net.features(x.reshape(-1, PIXELS)).view(*y.shape, -1)
        errors = sharpness * errors_at_zero(y) / y.shape[1]
        return torch.einsum("tbk,tbd->tkd", errors, features).flatten(1)

    return gradient


def clipped(change: Tensor, bound: float) -> Tensor:
    """Each row shortened to the norm ``bound`` if it is longer."""
    # inf / norm would make the gradient of what follows NaN.
    if math.isinf(bound):
        return change
    return change * torch.clamp(bound / change.norm(dim=1, keepdim=True).clamp(min=1e-12), max=1.0)


def release(change: Tensor, guard: GuardSettings | None, draw: np.random.Generator) -> Tensor:
    """What leaves: each row through the guard's own mechanism. No guard: as it is."""
    if guard is None:
        return change
    how = privacy.mechanism(guard)
    rows = []
    for row in change.double().numpy():
        start = np.zeros_like(row)
        norm = privacy.measure([(start, row)])
        rows.append(privacy.privatise(start, row, norm, how, draw.standard_normal))
    return torch.from_numpy(np.stack(rows)).float()


def analytic(released: Tensor, rows: int) -> Tensor:
    """First fully connected layer: weight row over its bias, rows weighed by bias squared.

    For one record: [t, 64].
    """
    weights = released[:, : rows * PIXELS].view(-1, rows, PIXELS)
    biases = released[:, rows * PIXELS : rows * PIXELS + rows]
    total = (biases**2).sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (torch.einsum("tk,tkd->td", biases, weights) / total).clamp(0, 1)


def analytic_batch(released: Tensor, y: Tensor) -> Tensor:
    """Linear model, records of known, different labels: solves weights = errors x records. [t, b, 64]."""
    errors = errors_at_zero(y)
    weights = released[:, : CLASSES * PIXELS].view(-1, CLASSES, PIXELS)
    biases, sums = released[:, CLASSES * PIXELS :], errors.sum(dim=1)
    scale = (biases * sums).sum(dim=1) / (sums**2).sum(dim=1)
    solved: Tensor = torch.linalg.pinv(errors.transpose(1, 2)) @ weights
    scaled: Tensor = solved / scale[:, None, None]
    return scaled.nan_to_num().clamp(0, 1)


@dataclass(frozen=True)
class Matching:
    """How long gradient matching (DLG) searches."""

    steps: int = 400
    restarts: int = 2
    rate: float = 0.05


def match(gradient: Gradient, released: Tensor, y: Tensor, bound: float, how: Matching, seed: int) -> Tensor:
    """Records whose own clipped step is nearest to the release in L2: likeliest under Gaussian noise.

    Gradient matching with known labels (DLG, iDLG), by Adam from random pictures. [t, b, 64].
    """
    draw = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(*y.shape, PIXELS), torch.full((len(y),), torch.inf)
    for _ in range(how.restarts):
        x = torch.rand(*y.shape, PIXELS, generator=draw).requires_grad_()
        optimizer = torch.optim.Adam([x], lr=how.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
        for _ in range(how.steps):
            optimizer.zero_grad()
            miss = ((clipped(-STEEP * gradient(x, y), bound) - released) ** 2).sum(dim=1)
            torch.autograd.backward(miss.sum())
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        better = miss.detach() < least
        best = torch.where(better[:, None, None], x.detach(), best)
        least = torch.where(better, miss.detach(), least)
    return best


def informed(
    released: Tensor, x: Tensor, y: Tensor, sigma: float, bound: float, public: tuple[Tensor, Tensor]
) -> Tensor:
    """Linear model: the likeliest records, given the release and what pictures of each label look like.

    Every record is taken as Gaussian with the mean and covariance of public records of its label, so the
    posterior mean is a linear system. The attacker is even told by how much the change was shortened.
    sigma is the deviation of the noise in ``released``. [t, b, 64]
    """
    spreads = [
        torch.cov(public[0][public[1] == label].T) + 1e-4 * torch.eye(PIXELS) for label in range(CLASSES)
    ]
    precisions = torch.stack([torch.linalg.inv(spread) for spread in spreads])
    means = torch.stack([public[0][public[1] == label].mean(dim=0) for label in range(CLASSES)])
    errors = errors_at_zero(y) / y.shape[1]
    scales = -bound / linear_gradient(x, y).norm(dim=1)
    weights = released[:, : CLASSES * PIXELS].view(-1, CLASSES, PIXELS)
    result = torch.empty_like(x)
    for trial, (mix, mean) in enumerate(zip(errors * scales[:, None, None], means[y], strict=True)):
        blocks: Tensor = torch.block_diag(*precisions[y[trial]])  # type: ignore[no-untyped-call]
        system = blocks * (sigma / bound) ** 2
        system += torch.kron(mix @ mix.T, torch.eye(PIXELS)) / bound**2
        surprise = mix @ (weights[trial] - mix.T @ mean) / bound**2
        result[trial] = mean + torch.linalg.solve(system, surprise.flatten()).view_as(mean)
    return result.clamp(0, 1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error a pixel between each of a [n, 64] and each of b [m, 64]: [n, m]."""
    return torch.cdist(a, b) ** 2 / PIXELS


@dataclass(frozen=True)
class Verdict:
    """An attack against chance: medians of the mean squared error a pixel, and the share of trials won."""

    attack: float
    chance: float
    wins: float
    p_value: float

    @property
    def beats_chance(self) -> bool:
        return self.p_value < 0.05

    @property
    def psnr(self) -> float:
        """Peak signal to noise ratio of the attack's median in dB (pixels lie in 0..1)."""
        return float(-10 * np.log10(max(self.attack, 1e-12)))


def judge(attack: Tensor, chance: Tensor, paired: bool = True) -> Verdict:
    """Whether errors of an attack are smaller than those of chance; the smaller p of two one-sided tests.

    Mann-Whitney compares both distributions. Paired (the same target) a sign test counts the wins besides.
    """
    a, c = attack.flatten().double().numpy(), chance.flatten().double().numpy()
    p_value = float(stats.mannwhitneyu(a, c, alternative="less").pvalue)
    if paired:
        wins = float((a < c).mean())
        p_value = min(
            p_value, float(stats.binomtest(int((a < c).sum()), len(a), alternative="greater").pvalue)
        )
    else:
        wins = float((a[:, None] < c[None]).mean())
    return Verdict(float(np.median(a)), float(np.median(c)), wins, p_value)
