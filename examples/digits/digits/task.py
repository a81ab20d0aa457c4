# SPDX-License-Identifier: Apache-2.0
"""The model, the data and how a device learns: what client and server share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FILE = "digits.npz"
FEATURES, CLASSES = 256, 10
# A guard on the device keeps the weights short; the logits are made larger here so that they can decide.
SHARPNESS = 10.0
# The same held-out records for everybody: the first fifth of a fixed shuffle.
SHUFFLE_SEED, TEST_SHARE = 7, 0.2

Records = tuple[NDArray[np.float32], NDArray[np.int64]]


class Net(nn.Module):
    """Fixed edge features, then one linear layer without bias: its 2560 weights are all that is learned.

    The features say in which directions edges run near each pixel (Sobel filters and the structure tensor),
    averaged over 3 by 3 pixels. They are fixed because noise harms an update less the less it has to teach.
    """

    filters: Tensor
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        # Not persistent: they are no part of the state that is sent.
        self.register_buffer("filters", torch.stack((sobel, sobel.T))[:, None], persistent=False)
        self.register_buffer("centre", torch.zeros(FEATURES), persistent=False)
        self.head = nn.Linear(FEATURES, CLASSES, bias=False)
        nn.init.zeros_(self.head.weight)

    def edges(self, x: Tensor) -> Tensor:
        """Edge features [n, 256] of length 1 for pixels [n, 64]."""
        slopes = functional.conv2d(x.view(-1, 1, 8, 8), self.filters, padding=2)
        across, down = slopes.split(1, dim=1)
        # The tiny term keeps the root's derivative finite on blank paper.
        steepness = (across**2 + down**2 + 1e-12).sqrt()
        maps = torch.cat((steepness * slopes, across**2 - down**2, 2 * across * down), dim=1)
        return functional.normalize(functional.avg_pool2d(maps, 3, stride=1).flatten(1))

    def centre_on(self, x: Tensor) -> None:
        """Take the mean features of these records as the origin. It stays where the records are."""
        with torch.no_grad():
            self.centre = self.edges(x).mean(dim=0)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: [n, 256], each of length 1."""
        return functional.normalize(self.edges(x) - self.centre)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 10] for pixels [n, 64]."""
        return self.logits(self.features(x))

    def logits(self, features: Tensor) -> Tensor:
        """Logits [n, 10] for features [n, 256]."""
        logits: Tensor = SHARPNESS * self.head(features)
        return logits


def load_folder(folder: str | Path) -> Records:
    """Pixels [n, 64] in 0..1 and labels [n] of a device's own folder."""
    return load_file(Path(folder) / FILE)


def load_file(path: str | Path) -> Records:
    """Pixels and labels of one npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["x"].astype(np.float32), archive["y"].astype(np.int64)


def load_sklearn(*, test: bool) -> Records:
    """scikit-learn's digits, without or only the held-out fifth."""
    from sklearn.datasets import load_digits  # a device with a folder of its own needs no scikit-learn

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(y))
    cut = int(len(y) * TEST_SHARE)
    chosen = order[:cut] if test else order[cut:]
    return (x[chosen] / 16).astype(np.float32), y[chosen].astype(np.int64)


def partition(records: Records, index: int, count: int) -> Records:
    """The ``index``-th of ``count`` parts, dealt out in turn."""
    x, y = records
    return x[index::count], y[index::count]


def train(model: Net, records: Records, *, epochs: int, lr: float, batch_size: int, seed: int) -> float:
    """Learn from the records, every class weighing the same; the mean loss of the last epoch."""
    x, y = torch.from_numpy(records[0]), torch.from_numpy(records[1])
    model.centre_on(x)
    inputs = model.features(x)
    counts = torch.bincount(y, minlength=CLASSES)
    loss_of = nn.CrossEntropyLoss(weight=1.0 / counts.clamp(min=1))
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(y), generator=shuffle).split(batch_size):
            optimizer.zero_grad()
            loss = loss_of(model.logits(inputs[batch]), y[batch])
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
    return total / max(1, len(y))


@torch.no_grad()
def evaluate(model: Net, records: Records) -> tuple[float, float]:
    """Mean loss and accuracy on the records."""
    x, y = torch.from_numpy(records[0]), torch.from_numpy(records[1])
    model.eval()
    model.centre_on(x)
    logits = model(x)
    loss = float(functional.cross_entropy(logits, y))
    return loss, float((logits.argmax(1) == y).float().mean())
