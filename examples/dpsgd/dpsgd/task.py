# SPDX-License-Identifier: Apache-2.0
"""The model and the data: what client and server share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

FILE = "digits.npz"
PIXELS, CLASSES = 64, 10
SHUFFLE_SEED, TEST_SHARE = 7, 0.2
# A guard keeps the weights short; the logits are made larger here so that they can decide.
SHARPNESS = 10.0


class Net(nn.Module):
    """One linear layer on pixels of length 1: few weights, so little noise in all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(PIXELS, CLASSES, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 10] for pixels [n, 64]."""
        logits: Tensor = SHARPNESS * self.head(functional.normalize(x))
        return logits


def load_folder(folder: str | Path) -> TensorDataset:
    """A device's own digits."""
    with np.load(Path(folder) / FILE, allow_pickle=False) as archive:
        return TensorDataset(
            torch.from_numpy(archive["x"].astype(np.float32)), torch.from_numpy(archive["y"].astype(np.int64))
        )


def load_sklearn(*, test: bool, index: int = 0, count: int = 1) -> TensorDataset:
    """A part of scikit-learn's digits, without or only the held-out fifth."""
    from sklearn.datasets import load_digits  # a device with a folder of its own needs no scikit-learn

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(y))
    cut = int(len(y) * TEST_SHARE)
    chosen = (order[:cut] if test else order[cut:])[index::count]
    return TensorDataset(
        torch.from_numpy((x[chosen] / 16).astype(np.float32)), torch.from_numpy(y[chosen].astype(np.int64))
    )


@torch.no_grad()
def accuracy(model: nn.Module, records: TensorDataset) -> float:
    """Share of the records that the model knows."""
    x, y = records.tensors
    return float((model(x).argmax(1) == y).float().mean())
