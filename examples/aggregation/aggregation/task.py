# SPDX-License-Identifier: Apache-2.0
"""The model, the data and how a device learns: what client and server share. numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "digits.npz"
PIXELS, CLASSES = 64, 10
# A guard keeps the weights short; the logits are made larger here so that they can decide.
SHARPNESS = 10.0
SHUFFLE_SEED, TEST_SHARE = 7, 0.2
BATCH = 32

Pixels = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = NDArray[np.float32]


def start() -> Weights:
    """The model before the first round."""
    return np.zeros((PIXELS, CLASSES), np.float32)


def load_folder(folder: str | Path) -> tuple[Pixels, Labels]:
    """A device's own digits."""
    return load_file(Path(folder) / FILE)


def load_file(path: str | Path) -> tuple[Pixels, Labels]:
    """Pixels in 0..1 and labels of one npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["x"].astype(np.float32), archive["y"].astype(np.int64)


def load_sklearn(*, test: bool) -> tuple[Pixels, Labels]:
    """scikit-learn's digits, without or only the held-out fifth."""
    from sklearn.datasets import load_digits  # a device with a folder of its own needs no scikit-learn

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(y))
    cut = int(len(y) * TEST_SHARE)
    chosen = order[:cut] if test else order[cut:]
    return (x[chosen] / 16).astype(np.float32), y[chosen].astype(np.int64)


def likelihoods(weights: Weights, x: Pixels) -> NDArray[np.float64]:
    """How likely each label is for each record."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6)
    logits = SHARPNESS * unit @ weights.astype(np.float64)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def train(weights: Weights, x: Pixels, y: Labels, *, epochs: int, lr: float, seed: int) -> Weights:
    """The weights after some passes over the records."""
    moved = weights.astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-6)
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(y))
        for batch in np.array_split(order, max(1, len(y) // BATCH)):
            error = likelihoods(moved, x[batch])
            error[np.arange(len(batch)), y[batch]] -= 1.0
            moved -= lr * SHARPNESS * unit[batch].T @ error / len(batch)
    return moved.astype(np.float32)


def evaluate(weights: Weights, x: Pixels, y: Labels) -> tuple[float, float]:
    """Mean loss and accuracy on the records."""
    likely = likelihoods(weights, x)
    loss = -np.log(likely[np.arange(len(y)), y].clip(1e-12)).mean()
    return float(loss), float((likely.argmax(axis=1) == y).mean())
